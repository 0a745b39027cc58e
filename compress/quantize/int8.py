"""Symmetric int8 with one scale per row (output channel)."""

import torch
from torch import Tensor


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale[r] = max_c |w[r, c]| / 127 and q = round(w / scale), so that |w - scale q| <= scale / 2.

    weight: [rows, columns] -> int8 [rows, columns], fp32 scale [rows]. A row of zeros gets scale 0.
    """
    exact = weight.float()
    scale = exact.abs().amax(dim=1) / 127.0
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))  # a product with 1 / scale could be inf
    quantized = torch.round(exact / divisor.unsqueeze(1)).clamp_(-127, 127).to(torch.int8)
    return quantized, scale
