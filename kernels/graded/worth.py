"""What reading an input further is worth: how much error of the outputs each bit removes, for the bytes it costs.

A weight w of which b bits are read counts as the middle of what it may be,

    c_b(w) = floor(w / 2^(8-b)) 2^(8-b) + (2^(8-b) - 1) / 2,  c_0 = 0,  c_8 = w,

so that input k, read at b bits, leaves the error x_k^2 e[b, k] with e[b, k] = sum_n F_n scale_n^2 (w - c_b(w))^2, F_n
the sensitivity of output n. What the low bits leave is much the same for every input, so e[b] is the mean over them. At
one price for every byte of a model, level l is read where |x_k| worth[l] is above one number, with worth[l]^2 the error
that the step to l removes for a byte, made falling in l: a step that removes more than the one before is taken together
with it.
"""

import torch
from torch import Tensor

from .bytes import PLANES, WHOLE_BITS, check_planes, level_bits

_BLOCK_WEIGHTS = 1 << 20  # at a time


def worth_of(weight: Tensor, scale: Tensor, sensitivity: Tensor | float, planes: tuple[int, ...] = PLANES) -> Tensor:
    """fp32 [levels] by the equation above. weight: int8 [outputs, inputs]; scale: fp32 [outputs].

    sensitivity: F_n, fp32 [outputs], or one number for all. Raises ValueError for planes and for shapes.
    """
    check_planes(planes)
    if scale.shape != weight.shape[:1]:
        raise ValueError(f"scale must be [{len(weight)}] for this weight, it is {list(scale.shape)}")
    errors = level_errors(weight, scale.double().square() * sensitivity, planes)
    costs = [len(weight) * width / WHOLE_BITS for width in planes]
    return falling(errors.mean(1), costs).sqrt().float()


def level_errors(weight: Tensor, importance: Tensor, planes: tuple[int, ...]) -> Tensor:
    """e[level, input] = sum_n importance[n] (w - c(w))^2: fp64 [1 + planes, inputs]."""
    total = weight.new_zeros(1 + len(planes), weight.shape[1], dtype=torch.float64)
    rows = max(1, _BLOCK_WEIGHTS // weight.shape[1])
    for part, factor in zip(torch.split(weight, rows), torch.split(importance.double(), rows), strict=True):
        for level, bits in enumerate(level_bits(planes)[:-1]):  # the last one leaves nothing
            off = part.double() - (halves(part, bits).double() / 2)
            total[level] += factor @ off.square()
    return total


def halves(weight: Tensor, bits: int) -> Tensor:
    """2 c_b(w), a whole number: int16 [..]."""
    if bits == 0:
        return torch.zeros_like(weight, dtype=torch.int16)
    under = WHOLE_BITS - bits
    return (weight.short() >> under << (under + 1)) + ((1 << under) - 1)


def falling(errors: Tensor, costs: list[float]) -> Tensor:
    """The error that each step removes for its cost, at least 0: [levels, ..] of errors [1 + levels, ..].

    The slopes of the concave hull of what is removed over what is paid: on step l the least, over where one may begin
    before it, of the most that one may gain a unit by going on from there to l or further.
    """
    paid = [sum(costs[:level]) for level in range(len(costs) + 1)]
    steps = []
    for level in range(1, len(paid)):
        best = [
            torch.stack([(errors[i] - errors[j]) / (paid[j] - paid[i]) for j in range(level, len(paid))]).amax(0)
            for i in range(level)
        ]
        steps.append(torch.stack(best).amin(0))
    return torch.stack(steps).clamp(min=0.0)
