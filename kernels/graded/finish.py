"""From partial sums of integers to the result, in Triton: the one way of graded_linear._finished.

y[t, n] = float(2 sum over splits of partial[split, t, n's place] + sum over chunks of facts) step/2 scale[n] + bias[n]
"""

# mypy: disable-error-code="no-untyped-def"

from dataclasses import dataclass

from torch import Tensor

from ..jit import cdiv, constexpr, jit, tl
from ..rows import power_of_two

_BLOCK, _SPLITS, _WARPS = 32, 64, 4  # many splits side by side: who reads them one after another waits for each


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
    y, counts,  # [tokens, outputs], int64 [2, tokens]
    partial, facts, step, scale, bias,  # as in Sums
    stride_y, splits, chunks, tokens, rows, outputs, width,
    ADDED: constexpr, HAS_BIAS: constexpr,
    ROWS: constexpr, BLOCK: constexpr, SPLITS: constexpr, CHUNKS: constexpr,
):  # fmt: skip
    token = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([SPLITS, BLOCK], tl.int64)
    for start in range(0, splits, SPLITS):
        split = start + tl.arange(0, SPLITS)
        inside = (split < splits)[:, None] & (column < width)[None, :]
        place = (split.to(tl.int64) * rows + token)[:, None] * width + column[None, :]
        total += tl.load(partial + place, mask=inside, other=0).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    fact = facts + ((token // ROWS * chunks + chunk).to(tl.int64) * ROWS + token % ROWS) * 3
    short = tl.sum(tl.load(fact + 2, mask=chunk < chunks, other=0).to(tl.int64), 0)

    doubled = (2 * tl.sum(total, 0) + short).to(tl.float32)
    n = _output_of(column, width)
    there = (column < width) & (n < outputs)
    result = doubled * (tl.load(step + token) * 0.5 * tl.load(scale + n, mask=there, other=0.0))
    if HAS_BIAS:
        result += tl.load(bias + n, mask=there, other=0.0).to(tl.float32)
    place = y + token.to(tl.int64) * stride_y + n
    if ADDED:
        result += tl.load(place, mask=there, other=0.0).to(tl.float32)
    tl.store(place, result.to(y.dtype.element_ty), mask=there)
    if tl.program_id(0) == 0:
        tl.store(counts + token, tl.sum(tl.load(fact, mask=chunk < chunks, other=0).to(tl.int64), 0))
        tl.store(counts + tokens + token, tl.sum(tl.load(fact + 1, mask=chunk < chunks, other=0).to(tl.int64), 0))


@jit
def _output_of(column, width):
    """The output of column i * words + t: of field i of word t of the first plane (layout.py)."""
    words = width // 8
    i, t = column // words, column % words
    lane, half, byte = t // 4, i // 4, i % 4
    tail = lane >= words // 16 * 4  # in a block of 64 outputs
    group, groups = tl.where(tail, lane % 2, lane % 4), tl.where(tail, 2, 4)
    return lane // 4 * 128 + (half * 4 + t % 4) * 4 * groups + 4 * group + byte


def finish_(y: Tensor, counts: Tensor, sums: Sums, added: bool = False) -> None:
    """Fills y, [tokens, outputs], or adds to it, and counts, int64 [2, tokens], in one launch."""
    (tokens, outputs), (_, chunks, rows, _) = y.shape, sums.facts.shape
    width = sums.partial[0, 0].numel()
    _finish_kernel[cdiv(width, _BLOCK), tokens](
        y, counts,
        sums.partial, sums.facts, sums.step, sums.scale, sums.scale if sums.bias is None else sums.bias,
        y.stride(0), len(sums.partial), chunks, tokens, sums.partial.shape[1], outputs, width,
        ADDED=added, HAS_BIAS=sums.bias is not None,
        ROWS=rows, BLOCK=_BLOCK, SPLITS=_SPLITS, CHUNKS=power_of_two(chunks),
        num_warps=_WARPS, enable_fp_fusion=False,
    )  # fmt: skip
