"""What the experts of a mixture made, put together in Triton: y[t] = sum over the experts that t takes of part * made.

They are added up in their order, so that a row has the same bits in any batch.
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from torch import Tensor

from ..digit_triton import BLOCK, MOST_TOKENS, put_blocks
from ..jit import cdiv, constant, constexpr, jit, tl
from ..rows import Target
from .assigned import Assigned

_MOST, _BLOCK = constant(MOST_TOKENS), constant(BLOCK)
VALUES = 1024  # of a row at a time, where rows are many


@jit
def _combine_few_kernel(
    y, largest_y, squares_y, weights_y, made, parts,  # as in Target; fp32 [pairs, outputs]; as in Assigned
    stride_y, outputs, most, tokens,
    ADDED: constexpr, ACTIVATION: constexpr, GATED: constexpr, TELLS: constexpr, SQUARES: constexpr,
):  # fmt: skip
    block, r = tl.program_id(0), tl.arange(0, _MOST)
    n = block * _BLOCK + tl.arange(0, _BLOCK)
    total = _summed(made, parts, r, n, outputs, most, tokens)
    put_blocks(
        y, largest_y, squares_y, weights_y, (total,), stride_y, tokens, outputs, block, 1,
        ADDED, ACTIVATION, GATED, TELLS, SQUARES, 1,
    )  # fmt: skip


@jit
def _combine_kernel(
    y, made, parts, stride_y, outputs, most, tokens,  # [tokens, outputs], [pairs, outputs], as in Assigned
    VALUES: constexpr,
):  # fmt: skip
    r, n = tl.program_id(0) + tl.arange(0, 1), tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    total = _summed(made, parts, r, n, outputs, most, tokens)
    place = y + r.to(tl.int64)[:, None] * stride_y + n[None, :]
    tl.store(place, total.to(y.dtype.element_ty), mask=(n < outputs)[None, :])


@jit
def _summed(made, parts, r, n, outputs, most, tokens):
    """fp32 [rows, outputs]."""
    total = tl.zeros_like(r).to(tl.float32)[:, None] + tl.zeros_like(n).to(tl.float32)[None, :]
    for i in range(0, most):
        part = tl.load(parts + r * most + i, mask=r < tokens, other=0.0)
        inside = (part != 0)[:, None] & (n < outputs)[None, :]  # what nobody takes nobody made
        pair = (r * most + i).to(tl.int64)[:, None]
        total += part[:, None] * tl.load(made + pair * outputs + n[None, :], mask=inside, other=0.0).to(tl.float32)
    return total


def combine_few_(target: Target, made: Tensor, assigned: Assigned) -> None:
    """Fills the target, at most 8 rows, with made: fp32 [pairs, outputs]."""
    (rows, outputs), most = target.y.shape, assigned.most
    _combine_few_kernel[cdiv(outputs, BLOCK),](
        *target.operands, made, assigned.parts, target.y.stride(0), outputs, most, rows,
        **target.constants, num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip


def combine_(y: Tensor, made: Tensor, assigned: Assigned) -> None:
    """The same for any number of rows."""
    rows, outputs = y.shape
    _combine_kernel[rows, cdiv(outputs, VALUES)](
        y, made, assigned.parts, y.stride(0), outputs, assigned.most, rows,
        VALUES=VALUES, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
