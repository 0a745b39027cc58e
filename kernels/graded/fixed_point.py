"""Activations in 16-bit fixed point, in Triton: digits.py, where they are made for the products of one launch.

q = round(x / step),  step = max|x| / 32639
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from ..jit import constant, constexpr, jit, tl
from .digits import LARGEST, LEAST_STEP

CHUNK = 256  # inputs whose products of q and a byte have a sum in int32: 256 * 32639 * 255 < 2^31
_LARGEST, _LEAST_STEP = constant(float(LARGEST)), constant(LEAST_STEP)
_ROUNDER = constant(12582912.0)  # 1.5 * 2^23: beside it fp32 has whole numbers only


@jit
def steps_of(x, row, stride_x, tokens, inputs, ROWS: constexpr, BLOCK: constexpr):
    """fp32 [ROWS], infinite for rows that hold what is not finite. x: [tokens, inputs]; row: which of them."""
    largest = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, inputs, BLOCK):
        size = tl.abs(values_at(x, row, start + tl.arange(0, BLOCK), stride_x, tokens, inputs))
        largest = tl.maximum(largest, tl.where(size < float("inf"), size, float("inf")))  # NaN is not less
    step = tl.div_rn(tl.max(largest, 1), tl.full([ROWS], _LARGEST, tl.float32))
    return tl.maximum(step, _LEAST_STEP)


@jit
def values_at(x, row, k, stride_x, tokens, inputs):
    """fp32 [rows, k], zeros beyond the operand."""
    inside = (row < tokens)[:, None] & (k < inputs)[None, :]
    return tl.load(x + row.to(tl.int64)[:, None] * stride_x + k[None, :], mask=inside, other=0.0).to(tl.float32)


@jit
def fixed_point(value, sound, step):
    """q, int32 [rows, k]; zeros for rows that are not sound: bool [rows]."""
    whole = tl.where(sound[:, None], value, 0.0)
    ratio = tl.div_rn(whole, tl.where(sound, step, 1.0)[:, None] + tl.zeros_like(whole))
    return ((ratio + _ROUNDER) - _ROUNDER).to(tl.int32)  # to even, as torch.round
