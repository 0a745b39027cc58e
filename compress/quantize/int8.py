"""Symmetric int8 with one scale per row (output channel)."""

import torch
from torch import Tensor

_ROWS = 4096  # that are in fp32 at once


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale[r] = max_c |w[r, c]| / 127 and q = round(w / scale), so that |w - scale q| <= scale / 2.

    weight: [rows, columns] -> int8 [rows, columns], fp32 scale [rows]. A row of zeros gets scale 0.
    """
    quantized = torch.empty_like(weight, dtype=torch.int8)
    scale = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    for begin in range(0, len(weight), _ROWS):
        rows = slice(begin, begin + _ROWS)
        scale[rows] = _quantize(weight[rows], quantized[rows])
    return quantized, scale


def _quantize(weight: Tensor, quantized: Tensor) -> Tensor:
    exact = weight.float()
    scale = exact.abs().amax(dim=1) / 127.0
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))  # a product with 1 / scale could be inf
    quantized.copy_(exact.div(divisor.unsqueeze(1)).round_().clamp_(-127, 127))
    return scale
