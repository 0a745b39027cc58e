"""Products of a mixture's experts for many tokens, in Triton: tensor cores over blocks of pairs of one expert.

    y[pair, n] = act(gate_e x) * (up_e x)  or  down_e x,  e the pair's expert

Inputs of a block are gathered by their pairs. Of int8 weights both digits of the inputs are multiplied over one tile of
weights, as in digit_matrix.py: the sums are those of few.py.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from torch import Tensor

from ..activations import activate
from ..int8_linear import TileConfig
from ..jit import cdiv, constexpr, jit, tl
from ..rows import size_of, step_of
from .assigned import Assigned
from .operands import Operands, Sources


@jit
def _many_kernel(
    y, largest_y,  # [pairs, outputs], int32 [pairs]
    pairs, experts, count,  # as in Assigned
    first, second, first_scale, second_scale,  # [experts, outputs, inputs], fp32 [experts, outputs]
    x, size,  # as in Sources
    stride_y, stride_x, stride_digit, inputs, outputs, shared,
    MATRICES: constexpr, INT8: constexpr, TELLS: constexpr, ACTIVATION: constexpr,
    BLOCK_TOKENS: constexpr, BLOCK_OUTPUTS: constexpr, BLOCK_INPUTS: constexpr,
):  # fmt: skip
    block = tl.program_id(1)
    if block >= tl.load(count):
        return
    pair = tl.load(pairs + block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS))
    source = tl.maximum(pair, 0) // shared
    expert = tl.load(experts + block).to(tl.int64)
    n = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    begin = (expert * outputs + n)[:, None] * inputs
    rows = x + source.to(tl.int64)[None, :] * stride_x
    found = (tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.int32 if INT8 else tl.float32),) * ((1 + INT8) * MATRICES)
    for start in range(0, inputs, BLOCK_INPUTS):
        k = start + tl.arange(0, BLOCK_INPUTS)
        inside, here = (n < outputs)[:, None] & (k < inputs)[None, :], (k < inputs)[:, None] & (pair >= 0)[None, :]
        some = (tl.load(rows + k[:, None], mask=here, other=0),)
        if INT8:
            some = some + (tl.load(rows + stride_digit + k[:, None], mask=here, other=0),)
        sums = ()
        for m in tl.static_range(MATRICES):
            w = tl.load((first if m == 0 else second) + begin + k[None, :], mask=inside, other=0)
            if INT8:
                sums = sums + (tl.dot(w, some[0], found[2 * m], out_dtype=tl.int32),)
                sums = sums + (tl.dot(w, some[1], found[2 * m + 1], out_dtype=tl.int32),)
            else:
                wide = w if w.dtype == some[0].dtype else w.to(some[0].dtype)
                sums = sums + (tl.dot(wide, some[0], found[m], input_precision="ieee"),)
        found = sums
    value = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.float32)
    for m in tl.static_range(MATRICES):
        if INT8:
            most = tl.load(size + source)
            step = tl.where(most < float("inf"), step_of(most), float("nan"))
            doubled = (2 * (256 * found[2 * m].to(tl.int64) + found[2 * m + 1].to(tl.int64))).to(tl.float32)
            scale = tl.load((first_scale if m == 0 else second_scale) + expert * outputs + n, n < outputs, other=0.0)
            z = doubled * (step[None, :] * 0.5 * scale[:, None])
        else:
            z = found[m]
        value = (activate(z, ACTIVATION) if ACTIVATION != "" else z) if m == 0 else value * z
    inside = (n < outputs)[:, None] & (pair >= 0)[None, :]
    tl.store(y + pair.to(tl.int64)[None, :] * stride_y + n[:, None], value.to(y.dtype.element_ty), mask=inside)
    if TELLS:
        most = tl.max(tl.where(inside, size_of(value), 0.0), 0).to(tl.int32, bitcast=True)
        tl.atomic_max(largest_y + pair, most, mask=pair >= 0, sem="relaxed")


def many_config(rows: int, matrices: int, int8: bool, exact: bool) -> TileConfig:
    """rows: of a block; exact: fp32, in tiles below 64 rows, where no target rounds operands to feed tensor cores."""
    if exact:
        return TileConfig(rows, 32, 32, 4, 2)
    if int8:
        return TileConfig(rows, 64, 128 if rows * matrices <= 32 else 64, 4, 3)
    return TileConfig(rows, 64 if matrices == 2 else 128, 64, 4, 3)


def many_(
    y: Tensor, largest: Tensor | None, assigned: Assigned, operands: Operands, sources: Sources, activation: str
) -> None:
    """Fills y, [pairs, outputs], for the pairs of all blocks; largest: int32 [pairs], zeros, for bits of max |y|."""
    matrices, outputs, x = len(operands.matrices), y.shape[1], sources.x
    config = many_config(assigned.rows, matrices, operands.is_int8, x.element_size() == 4)
    _many_kernel[cdiv(outputs, config.block_outputs), len(assigned.experts)](
        y, assigned.count if largest is None else largest,
        assigned.pairs, assigned.experts, assigned.count,
        operands.matrices[0], operands.matrices[-1], operands.scales[0], operands.scales[-1], x, sources.size,
        y.stride(0), sources.row, sources.digit, operands.matrices[0].shape[2], outputs, sources.shared,
        MATRICES=matrices, INT8=operands.is_int8, TELLS=largest is not None, ACTIVATION=activation,
        BLOCK_TOKENS=config.block_tokens, BLOCK_OUTPUTS=config.block_outputs, BLOCK_INPUTS=config.block_inputs,
        num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=False,
    )  # fmt: skip
