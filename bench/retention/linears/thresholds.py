"""One threshold for many matrices at which they together read a share of their bytes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .matrices import INT8_BITS, Matrix

_BINS, _LOW, _HIGH = 6400, -60.0, 40.0  # of log2 of what an input is worth: 1/64 of an octave each

Part = tuple[Matrix, Tensor, Tensor]  # sizes of its inputs [tokens, inputs], what they are worth [steps, inputs]


def by_step(sizes: Tensor, passes: Tensor) -> Tensor:
    """How many steps each input goes up: those that it passes. sizes [tokens, inputs], passes [steps, inputs]."""
    level = torch.zeros(sizes.shape, dtype=torch.int8)
    for step in passes:
        level += sizes > step
    return level


def fixed_bytes(parts: Sequence[Part], levels: Sequence[int]) -> float:
    """Those of scales and of the least level, which every token reads."""
    return sum(m.scale_bytes + levels[0] / INT8_BITS * m.levels.numel() for m, _, _ in parts)


def threshold_for(parts: Sequence[Part], levels: Sequence[int], share: float) -> float:
    """The threshold on size times worth above which steps are taken, so that `share` of the int8 bytes is read."""
    spent = torch.zeros(_BINS, dtype=torch.float64)
    for matrix, sizes, worth in parts:
        for step, value in enumerate(worth):
            scores = torch.log2(sizes * value).clamp(_LOW, _HIGH - 1e-3)
            size = (levels[step + 1] - levels[step]) / INT8_BITS * matrix.outputs / len(sizes)
            spent += size * torch.histc(scores, _BINS, _LOW, _HIGH).double()
    wanted = share * sum(matrix.whole_bytes for matrix, _, _ in parts) - fixed_bytes(parts, levels)
    above = spent.flip(0).cumsum(0).flip(0)  # bytes of steps in this bin and above
    taken = int((above > wanted).sum())  # the first so many bins hold too much from there on
    return math.exp2(_LOW + (_HIGH - _LOW) * taken / _BINS) if taken else 0.0
