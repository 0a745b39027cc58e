"""The graded linear in four launches of Triton: sizes of rows, lists of inputs, products, the way into floats."""

import torch
from torch import Tensor

from ..device_cost import PLANE_ROWS
from ..rows import Target, measured
from .bytes import PLANES
from .finish import Sums, finish_
from .layout import PackedGraded
from .lists import listed
from .multiply import partial_sums

MOST_TOKENS = PLANE_ROWS


def takes(packed: PackedGraded, tokens: int) -> bool:
    """Whether there is a kernel for so many tokens of these weights."""
    return 0 < tokens <= MOST_TOKENS and packed.planes == PLANES


def graded_linear_triton(
    x: Tensor, packed: PackedGraded, scale: Tensor, worth: Tensor, bias: Tensor | None, thresholds: Tensor
) -> tuple[Tensor, Tensor]:
    """(y, counts) of graded_linear.GradedResult, without host synchronization. The caller has checked the operands."""
    y = x.new_empty(len(x), packed.outputs)
    counts = x.new_empty(2, len(x), dtype=torch.int64)
    lists = listed(measured(x), worth, thresholds)
    finish_(Target(y), counts, Sums(partial_sums(packed, lists), lists.facts, lists.step, scale, bias))
    return y, counts
