"""From partial sums of integers to the result, in Triton: the one way of graded_linear._finished, and what follows it.

y[t, n] = float(2 sum over splits of partial[split, t, n's place] + sum over chunks of facts) step/2 scale[n] + bias[n]

As with products of tiles (digit_triton.py) an addition or an activation may be part of it. A gate and what it
multiplies stand half of the words apart where each is whole blocks of 128 outputs.
"""

# mypy: disable-error-code="no-untyped-def,assignment"

from dataclasses import dataclass

from torch import Tensor

from ..activations import activate
from ..jit import cdiv, constexpr, jit, tl
from ..rows import Target, power_of_two, size_of

_BLOCK, _GATED_BLOCK = 32, 16  # columns of a program: a part of what comes next is told; gates lie in runs of 16 words
GATED_OUTPUTS = 128  # a gate must have whole blocks of so many
_SPLITS, _WARPS = 64, 4  # many splits side by side: who reads them one after another waits for each


@dataclass(frozen=True)
class Sums:
    """partial: int32 [splits, rows.., width]; facts: int32 [groups, chunks, rows, 3]; step: fp32 [tokens or more]."""

    partial: Tensor
    facts: Tensor
    step: Tensor
    scale: Tensor
    bias: Tensor | None


@jit
def _finish_kernel(
    y, largest_y, squares_y, weights_y, counts,  # as in Target, int64 [2, tokens]
    partial, facts, step, scale, bias,  # as in Sums
    stride_y, splits, chunks, tokens, rows, outputs, width,
    ADDED: constexpr, ACTIVATION: constexpr, GATED: constexpr, TELLS: constexpr, SQUARES: constexpr,
    HAS_BIAS: constexpr, ROWS: constexpr, BLOCK: constexpr, SPLITS: constexpr, CHUNKS: constexpr,
):  # fmt: skip
    token, part = tl.program_id(1), tl.program_id(0)
    first = part * BLOCK
    if GATED:
        first = first // (width // 16) * (width // 8) + first % (width // 16)
    column = tl.multiple_of(first, BLOCK) + tl.arange(0, BLOCK)
    chunk = tl.arange(0, CHUNKS)
    fact = facts + ((token // ROWS * chunks + chunk).to(tl.int64) * ROWS + token % ROWS) * 3
    short = tl.sum(tl.load(fact + 2, mask=chunk < chunks, other=0).to(tl.int64), 0)
    size = tl.load(step + token) * 0.5

    n = _output_of(column, width)
    partial += token.to(tl.int64) * width
    result = _result(
        partial, column, n, short, size, scale, bias, splits, rows, outputs, width, HAS_BIAS, BLOCK, SPLITS
    )
    if GATED:
        up, half = tl.multiple_of(first + width // 16, BLOCK) + tl.arange(0, BLOCK), outputs // 2
        other = _result(
            partial, up, n + half, short, size, scale, bias, splits, rows, outputs, width, HAS_BIAS, BLOCK, SPLITS
        )
        result = activate(result, ACTIVATION) * other
        there = (column < width) & (n < half)
    else:
        there = (column < width) & (n < outputs)
        if ACTIVATION != "":
            result = activate(result, ACTIVATION)
    place = y + token.to(tl.int64) * stride_y + n
    if ADDED:
        result += tl.load(place, mask=there, other=0.0).to(tl.float32)
    tl.store(place, result.to(y.dtype.element_ty), mask=there)
    if TELLS:
        told = token * tl.num_programs(0) + part
        if SQUARES:
            tl.store(squares_y + told, tl.sum(tl.where(there, result * result, 0.0), 0))
            result = result * tl.load(weights_y + n, mask=there, other=0.0).to(tl.float32)
        tl.store(largest_y + told, tl.max(tl.where(there, size_of(result), 0.0), 0))
    if part == 0:
        tl.store(counts + token, tl.sum(tl.load(fact, mask=chunk < chunks, other=0).to(tl.int64), 0))
        tl.store(counts + tokens + token, tl.sum(tl.load(fact + 1, mask=chunk < chunks, other=0).to(tl.int64), 0))


@jit
def _result(
    partial, column, n, short, size, scale, bias, splits, rows, outputs, width,
    HAS_BIAS: constexpr, BLOCK: constexpr, SPLITS: constexpr,
):  # fmt: skip
    """fp32 [BLOCK] of the columns of a token's sums."""
    total = tl.zeros([SPLITS, BLOCK], tl.int64)
    for start in range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        inside = (split < splits)[:, None] & (column < width)[None, :]
        place = split.to(tl.int64)[:, None] * rows * width + column[None, :]
        total += tl.load(partial + place, mask=inside, other=0).to(tl.int64)
    doubled = (2 * tl.sum(total, 0) + short).to(tl.float32)
    there = (column < width) & (n < outputs)
    result = doubled * (size * tl.load(scale + n, mask=there, other=0.0))
    if HAS_BIAS:
        result += tl.load(bias + n, mask=there, other=0.0).to(tl.float32)
    return result


@jit
def _output_of(column, width):
    """The output of column i * words + t: of field i of word t of the first plane (layout.py)."""
    words = width // 8
    i, t = column // words, column % words
    lane, half, byte = t // 4, i // 4, i % 4
    tail = lane >= words // 16 * 4  # in a block of 64 outputs
    group, groups = tl.where(tail, lane % 2, lane % 4), tl.where(tail, 2, 4)
    return lane // 4 * 128 + (half * 4 + t % 4) * 4 * groups + 4 * group + byte


def finish_(target: Target, counts: Tensor, sums: Sums) -> None:
    """Fills the target, and counts, int64 [2, tokens], in one launch."""
    y, (_, chunks, rows, _) = target.y, sums.facts.shape
    width, block = sums.partial[0, 0].numel(), _GATED_BLOCK if target.gated else _BLOCK
    _finish_kernel[parts_of(width, target.gated), len(y)](
        *target.operands, counts,
        sums.partial, sums.facts, sums.step, sums.scale, sums.scale if sums.bias is None else sums.bias,
        y.stride(0), len(sums.partial), chunks, len(y), sums.partial.shape[1], len(sums.scale), width,
        **target.constants, HAS_BIAS=sums.bias is not None,
        ROWS=rows, BLOCK=block, SPLITS=_SPLITS // (1 + target.gated), CHUNKS=power_of_two(chunks),
        num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def parts_of(width: int, gated: bool) -> int:
    """In how many parts a row of sums is finished, and told. width: as the planes have it."""
    return cdiv(width // 2, _GATED_BLOCK) if gated else cdiv(width, _BLOCK)
