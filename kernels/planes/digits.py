"""Rows on their way into an FFN that chooses neurons, in Triton: normalised, and in integers with one scale a row.

    q = round(n / scale),  scale = max |n| / 127 for planes, or max |n| / 32639 in two digits for tiles

as int8_dynamic_linear.quantize_tokens and graded/digits.py have them. A row that nobody told of is measured on the way.
It is the first launch of the FFN, so that it also empties the lists.
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from torch import Tensor

from ..jit import constant, constexpr, jit, tl
from ..rows import TOLD, Rows, fixed_point, measured_at, normed_at, power_of_two, step_of, told_at
from .scratch import Scratch

_TOLD = constant(TOLD)
_BLOCK, _WARPS = 2048, 16  # values at a time


@jit
def _digits_kernel(
    digits, scale, total, normed, lengths, largest_h, counts,  # as in Scratch, int64 [2, rows]
    x, largest, stats, weight, offset,  # as in Rows
    stride, stride_x, inputs, parts, eps,
    NORM: constexpr, TWO: constexpr, BLOCK: constexpr,
):  # fmt: skip
    row, rows = tl.program_id(0) + tl.arange(0, 1), tl.num_programs(0)
    if NORM == _TOLD:
        mean, rate, most = told_at(largest, stats, row, rows, inputs, parts, eps, NORM)
    else:
        mean, rate, most = measured_at(x, row, stride_x, rows, inputs, weight, offset, eps, NORM, BLOCK)
    sound = most < float("inf")
    most = tl.where(sound, most, 0.0)
    size = step_of(most) if TWO else tl.div_rn(most, tl.zeros_like(most) + 127.0)
    sums = tl.zeros([1, BLOCK], tl.int32)
    for start in range(0, stride, BLOCK):
        k = start + tl.arange(0, BLOCK)
        value = normed_at(x, row, k, stride_x, rows, inputs, mean, rate, weight, offset, NORM)
        q = fixed_point(value, sound, tl.where(size > 0, size, 1.0))
        place, inside = (1 + TWO) * row[:, None] * stride + k[None, :], (k < stride)[None, :]
        if TWO:
            tl.store(normed + row[:, None] * stride + k[None, :], value, mask=inside)
            high = (q + 128) >> 8
            tl.store(digits + place, high.to(tl.int8), mask=inside)
            tl.store(digits + place + stride, (q - 256 * high).to(tl.int8), mask=inside)
        else:
            sums += q
            tl.store(digits + place, q.to(tl.int8), mask=inside)
    tl.store(scale + row, tl.where(sound, size, float("nan")))
    tl.store(total + row, tl.sum(sums, 1))
    tl.store(largest_h + row, tl.zeros([1], tl.int32))
    for which in tl.static_range(2):
        tl.store(counts + which * rows + row, tl.zeros([1], tl.int64))
        tl.store(lengths + which, 0)  # every program says the same


def digits_(scratch: Scratch, counts: Tensor, rows: Rows, two: bool = False) -> None:
    """Fills digits, scale and total of at most 8 rows, or two digits each, scale and normed; and empties lists, largest
    and counts, int64 [2, rows].
    """
    stride = scratch.stride
    _digits_kernel[len(rows.x),](
        scratch.digits, scratch.scale, scratch.total, scratch.normed, scratch.lengths, scratch.largest, counts,
        *rows.operands, stride, rows.x.stride(0), rows.x.shape[1], rows.largest.shape[1], rows.eps,
        NORM=rows.kind, TWO=two, BLOCK=min(_BLOCK, power_of_two(stride)), num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
