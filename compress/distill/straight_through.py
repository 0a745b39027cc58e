"""Rounding that gradients pass as if there were none (straight-through; Bengio et al. 2013)."""

import torch
from torch import Tensor

from ...kernels.planes.bytes import WHOLE_BITS
from ..quantize.int8 import quantize_rows


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` with the gradient of `value`."""
    return value + (rounded - value).detach()


def int8_units(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The int8 rows of a weight as whole numbers in fp32 [rows, columns], and their scales, fp32 [rows]."""
    whole, scale = quantize_rows(weight.detach())
    return whole.float(), scale


def fake_int8(weight: Tensor) -> Tensor:
    """The weights as int8 rows are worth, with the gradient of the weights themselves. [rows, columns]."""
    whole, scale = int8_units(weight)
    return straight_through(weight, whole * scale.unsqueeze(1))


def high_bits(whole: Tensor, bits: int) -> Tensor:
    """The middle of what an int8 number may be of which so many bits are known, in its own units."""
    step = 2.0 ** (WHOLE_BITS - bits)
    return torch.floor(whole / step) * step + (step / 2 - 0.5)
