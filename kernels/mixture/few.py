"""Products of a mixture's experts for a few tokens, in Triton: rows of weights, each read once for a block of pairs.

    y[pair, n] = act(gate_e x) * (up_e x)  or  down_e x,  e the pair's expert

A program of one warp takes a few outputs of a block's expert at a time and reads 16 bytes of a row a thread. int8
weights are multiplied by both digits of activations (dp4a), others by floats, whose sums have one order.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from torch import Tensor

from ..activations import activate
from ..jit import cdiv, constexpr, jit, tl
from ..rows import size_of, step_of
from ..words import dot_bytes
from .assigned import Assigned
from .operands import Operands, Sources

REGISTERS = 255  # of a thread: left to itself, the compiler spills a few
_PROGRAMS = 2048
_LINE = 512  # bytes that a warp reads at once


def outputs_of(matrices: int) -> int:
    """Outputs that a program reads side by side; the same for any number of rows, as sums of floats have an order."""
    return 4 // matrices


@jit
def _few_kernel(
    y, largest_y,  # [pairs, outputs], int32 [pairs]
    pairs, experts, count,  # as in Assigned
    first, second, first_scale, second_scale,  # [experts, outputs, inputs], int8 as words; fp32 [experts, outputs]
    x, size,  # as in Sources, digits as words
    stride_y, stride_x, stride_digit, inputs, outputs, shared,
    MATRICES: constexpr, INT8: constexpr, MEASURED: constexpr, TELLS: constexpr, ACTIVATION: constexpr,
    ROWS: constexpr, OUTPUTS: constexpr, INPUTS: constexpr,
):  # fmt: skip
    parts = tl.cdiv(outputs, OUTPUTS)
    zero = tl.zeros([OUTPUTS, INPUTS], tl.int32 if INT8 else tl.float32)
    for item in range(tl.program_id(0), tl.load(count) * parts, tl.num_programs(0)):
        block, n = item // parts, item % parts * OUTPUTS + tl.arange(0, OUTPUTS)
        expert = tl.load(experts + block).to(tl.int64)
        begin = ((expert * outputs + tl.minimum(n, outputs - 1)) * inputs)[:, None]
        of_row, sums = (), (zero,) * ((1 + INT8) * ROWS * MATRICES)
        for row in tl.static_range(ROWS):
            of_row = of_row + (tl.load(pairs + block * ROWS + row),)
        for start in range(0, inputs, INPUTS):
            k = start + tl.arange(0, INPUTS)
            read = (tl.load(first + begin + k[None, :], mask=(k < inputs)[None, :], other=0),)
            if MATRICES == 2:
                read = read + (tl.load(second + begin + k[None, :], mask=(k < inputs)[None, :], other=0),)
            found = ()
            for row in tl.static_range(ROWS):
                source = x + (tl.maximum(of_row[row], 0) // shared).to(tl.int64) * stride_x + k
                if INT8:
                    for digit in tl.static_range(2):
                        word = tl.load(source + digit * stride_digit, mask=k < inputs, other=0)[None, :] + zero
                        for m in tl.static_range(MATRICES):
                            found = found + (dot_bytes(read[m], word, sums[len(found)], True),)
                else:
                    value = tl.load(source, mask=k < inputs, other=0.0).to(tl.float32)[None, :]
                    for m in tl.static_range(MATRICES):
                        found = found + (sums[len(found)] + read[m].to(tl.float32) * value,)
            sums = found
        there = n < outputs
        for row in tl.static_range(ROWS):
            value = tl.zeros([OUTPUTS], tl.float32)
            for m in tl.static_range(MATRICES):
                if INT8:
                    high = tl.sum(sums[2 * row * MATRICES + m], 1).to(tl.int64)
                    total = 256 * high + tl.sum(sums[(2 * row + 1) * MATRICES + m], 1).to(tl.int64)
                    step = tl.load(size + tl.maximum(of_row[row], 0) // shared)
                    if MEASURED:
                        step = tl.where(step < float("inf"), step_of(step), float("nan"))
                    scale = tl.load((first_scale if m == 0 else second_scale) + expert * outputs + n, there, other=0.0)
                    z = (2 * total).to(tl.float32) * (step * 0.5 * scale)
                else:
                    z = tl.sum(sums[row * MATRICES + m], 1)
                value = (activate(z, ACTIVATION) if ACTIVATION != "" else z) if m == 0 else value * z
            kept = there & (of_row[row] >= 0)
            tl.store(y + of_row[row].to(tl.int64) * stride_y + n, value.to(y.dtype.element_ty), mask=kept)
            if TELLS:
                most = tl.max(tl.where(there, size_of(value), 0.0), 0).to(tl.int32, bitcast=True)
                tl.atomic_max(largest_y + of_row[row], most, mask=of_row[row] >= 0, sem="relaxed")


def few_(
    y: Tensor, largest: Tensor | None, assigned: Assigned, operands: Operands, sources: Sources, activation: str
) -> None:
    """Fills y, [pairs, outputs], for the pairs of all blocks; largest: int32 [pairs], zeros, for bits of max |y|."""
    matrices, outputs = len(operands.matrices), y.shape[1]
    int8 = operands.is_int8
    first, second = (operands.words[0], operands.words[-1])
    own = outputs_of(matrices)
    _few_kernel[min(_PROGRAMS, cdiv(outputs, own) * len(assigned.experts)),](
        y, assigned.count if largest is None else largest,
        assigned.pairs, assigned.experts, assigned.count,
        first, second, operands.scales[0], operands.scales[-1], sources.words, sources.size,
        y.stride(0), sources.stride, sources.stride_digit, first.shape[2], outputs, sources.shared,
        MATRICES=matrices, INT8=int8, MEASURED=sources.measured, TELLS=largest is not None, ACTIVATION=activation,
        ROWS=assigned.rows, OUTPUTS=own, INPUTS=_LINE // first.element_size(),
        num_warps=1, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip
