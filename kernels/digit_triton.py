"""digit_linear of a few rows in Triton, in one launch: digits of the activations, products of bytes (dp4a), floats.

A program owns blocks of 32 outputs and a run of inputs, its split. It makes the digits of those inputs, in a place that
it shares with the programs of the same split, who write the same there. Its threads then read 16 bytes at a time, four
outputs of a quad of inputs, and multiply each word by both digits of every row. Weights stand as w + 128, so that

    partial[split, row, n] = sum over the split's inputs of q (w + 128) - 128 q,  q = 256 h + l

is exact in any order. The last split of a block to arrive adds them up and finishes: scale and bias, and what the
program of a step has next, an addition to the row that went in or an activation (Osama et al., "Stream-K", 2023, fix
up tiles in the same way).
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from dataclasses import dataclass

import torch
from torch import Tensor

from .activations import activate
from .jit import cdiv, constant, constexpr, jit, tl
from .rows import Rows, Target, fixed_point, measured, normed_at, power_of_two, row_at, size_of
from .words import dot_bytes

MOST_TOKENS = 8
BLOCK = 32  # outputs of a tile
REGISTERS = 255  # of a thread: left to itself, the compiler spills a few so that more programs fit
_PROGRAMS = 1024  # that keep a GPU's memory busy: about 8 of a warp for each of its multiprocessors
_PIECE = constant(256)  # inputs whose digits are made at a time
_MOST = constant(
    MOST_TOKENS
)  # rows that the last steps always have, so that a row's sums do not depend on their number


@dataclass(frozen=True)
class DigitTile:
    """blocks: of 32 outputs, of a program of one warp; unrolled: how many times four quads are read side by side, which
    is a turn; turns: of a split; splits: programs that share a block.
    """

    blocks: int
    unrolled: int
    turns: int
    splits: int


@dataclass(frozen=True)
class Scratch:
    """Room that launches of one stream may share. counters: int32 [blocks], zeros, and zeros again after each launch;
    digits: int8; partial: int64.
    """

    counters: Tensor
    digits: Tensor
    partial: Tensor

    @classmethod
    def of(cls, device: torch.device, counters: int, digits: int, partial: int) -> "Scratch":
        return cls(
            torch.zeros(counters, dtype=torch.int32, device=device),
            torch.empty(digits, dtype=torch.int8, device=device),
            torch.empty(partial, dtype=torch.int64, device=device),
        )


def rows_of(tokens: int) -> int:
    """For how many a kernel is made: a power of two."""
    return power_of_two(tokens)


def digit_tile(rows: int, blocks: int, quads: int, gated: bool = False) -> DigitTile:
    """Two blocks share the digits that are loaded, where there are enough; more rows have more to do between loads."""
    own, unrolled = 2 if gated or rows > 4 or blocks >= _PROGRAMS // 2 else 1, 4 if rows <= 2 else 2
    every = cdiv(quads, 4 * unrolled)
    turns = cdiv(every, min(every, cdiv(_PROGRAMS, cdiv(blocks, own))))
    return DigitTile(own, unrolled, turns, cdiv(every, turns))


@jit
def _tiles_kernel(
    y, largest_y, squares_y, weights_y, counters, partial, digits,  # as in Target and Scratch
    x, largest, stats, weight, offset,  # as in Rows
    tiles, scale, bias,  # words of [blocks, quads, 32], [outputs], [outputs]
    stride_y, stride_x, tokens, inputs, parts, eps, outputs, blocks, quads, turns, apart, second,
    NORM: constexpr,
    ADDED: constexpr, ACTIVATION: constexpr, GATED: constexpr, TELLS: constexpr, SQUARES: constexpr,
    HAS_BIAS: constexpr, SPLIT: constexpr,
    ROWS: constexpr, OWN: constexpr, UNROLLED: constexpr,
):  # fmt: skip
    split, splits = tl.program_id(1), tl.num_programs(1)
    first = tl.program_id(0) * apart
    width = turns * 16 * UNROLLED  # inputs of a split
    digits += split.to(tl.int64) * ROWS * 2 * width
    short, step = _make_digits(
        digits, x, largest, stats, weight, offset, split * width, width, stride_x, tokens, inputs, parts, eps,
        NORM, ROWS,
    )  # fmt: skip
    tl.debug_barrier()

    n, four = tl.arange(0, 32), tl.arange(0, 4)
    words_of = digits.to(tl.pointer_type(tl.int32))
    zero = tl.zeros([4, 32], tl.int32)
    sums = (zero,) * (2 * ROWS * OWN)
    for turn in range(0, tl.minimum(turns, tl.cdiv(quads, 4 * UNROLLED) - split * turns)):
        for part in tl.static_range(UNROLLED):
            quad = (turn * UNROLLED + part) * 4 + four
            there = tl.minimum(split * turns * 4 * UNROLLED + quad, quads - 1)  # beyond the last one digits are 0
            words = ()
            for own in tl.static_range(OWN):
                block = tl.minimum(first + own * second, blocks - 1).to(tl.int64)
                words = words + (tl.load(tiles + block * quads * 32 + there[:, None] * 32 + n[None, :]),)
            found = ()
            for each in tl.static_range(2 * ROWS):
                digit = tl.load(words_of + quad * (2 * ROWS) + each)[:, None] + zero
                for own in tl.static_range(OWN):
                    found = found + (dot_bytes(words[own], digit, sums[len(found)]),)
            sums = found

    totals = ()
    r = tl.arange(0, _MOST)
    for own in tl.static_range(OWN):
        tile = tl.zeros([_MOST, 32], tl.int64)
        for row in tl.static_range(ROWS):
            high = tl.sum(sums[2 * row * OWN + own], 0).to(tl.int64)
            low = tl.sum(sums[(2 * row + 1) * OWN + own], 0).to(tl.int64)
            tile = tl.where((r == row)[:, None], (256 * high + low - 128 * short[row].to(tl.int64))[None, :], tile)
        totals = totals + (tile,)
    if SPLIT:
        _put(partial, totals, split, blocks, first, second, tokens, OWN)
        tl.debug_barrier()
        if tl.atomic_add(counters + tl.program_id(0), 1, sem="acq_rel") == splits - 1:
            tl.store(counters + tl.program_id(0), 0)
            every = _added_up(partial, splits, blocks, first, second, tokens, OWN)
            results = scaled_blocks(every, step, scale, bias, first, second, outputs, HAS_BIAS, OWN)
            put_blocks(
                y, largest_y, squares_y, weights_y, results, stride_y, tokens, outputs, first, second,
                ADDED, ACTIVATION, GATED, TELLS, SQUARES, OWN,
            )  # fmt: skip
    else:
        results = scaled_blocks(totals, step, scale, bias, first, second, outputs, HAS_BIAS, OWN)
        put_blocks(
            y, largest_y, squares_y, weights_y, results, stride_y, tokens, outputs, first, second,
            ADDED, ACTIVATION, GATED, TELLS, SQUARES, OWN,
        )  # fmt: skip


@jit
def _make_digits(
    digits, x, largest, stats, weight, offset, start, width, stride_x, tokens, inputs, parts, eps,
    NORM: constexpr, ROWS: constexpr,
):  # fmt: skip
    """Fills int8 [quads of the split, rows, 2, 4]; sum q of each row, and steps, fp32 [8], NaN where q would not be."""
    short, steps, r_all = (), tl.zeros([_MOST], tl.float32), tl.arange(0, _MOST)
    for r in tl.static_range(ROWS):
        row = r + tl.arange(0, 1)
        mean, rate, size = row_at(largest, stats, row, tokens, inputs, parts, eps, NORM)
        steps = tl.where(r_all == r, tl.where(size < float("inf"), size, float("nan")), steps)
        total = tl.zeros([1], tl.int32)
        for piece in range(0, width, _PIECE):
            k = piece + tl.arange(0, _PIECE)
            value = normed_at(x, row, start + k, stride_x, tokens, inputs, mean, rate, weight, offset, NORM)
            q = tl.where((k < width)[None, :], fixed_point(value, size < float("inf"), size), 0)
            total += tl.sum(q, 1)
            high = (q + 128) >> 8
            place = digits + (k // 4 * (8 * ROWS) + 8 * r + k % 4)[None, :]
            tl.store(place, high.to(tl.int8), mask=(k < width)[None, :])
            tl.store(place + 4, (q - 256 * high).to(tl.int8), mask=(k < width)[None, :])
        short = short + (total,)
    return short, steps


@jit
def _put(partial, totals, split, blocks, first, second, tokens, OWN: constexpr):
    r, n = tl.arange(0, _MOST), tl.arange(0, 32)
    for own in tl.static_range(OWN):
        block = first + own * second
        inside = ((r < tokens) & (block < blocks))[:, None] & (n >= 0)[None, :]
        tl.store(_place(partial, split, block, blocks), totals[own], mask=inside)


@jit
def _added_up(partial, splits, blocks, first, second, tokens, OWN: constexpr):
    """int64 [rows, 32] of each own block, over all splits."""
    r, n = tl.arange(0, _MOST), tl.arange(0, 32)
    totals = ()
    for own in tl.static_range(OWN):
        block = first + own * second
        total = tl.zeros([_MOST, 32], tl.int64)
        for start in range(0, splits, 4):
            for each in tl.static_range(4):  # loads side by side
                inside = ((r < tokens) & (start + each < splits) & (block < blocks))[:, None] & (n >= 0)[None, :]
                place = _place(partial, start + each, block, blocks)
                total += tl.load(place, mask=inside, other=0, cache_modifier=".cg")
        totals = totals + (total,)
    return totals


@jit
def _place(partial, split, block, blocks):
    r, n = tl.arange(0, _MOST), tl.arange(0, 32)
    return partial + ((split * blocks + block) * _MOST + r)[:, None] * 32 + n[None, :]  # far below 2^31: splits are few


@jit
def scaled_blocks(totals, step, scale, bias, first, second, outputs, HAS_BIAS: constexpr, OWN: constexpr):
    """The way of sums into floating point, fp32 [rows, 32] of each own block: as graded_linear._finished has it."""
    results = ()
    for own in tl.static_range(OWN):
        n = (first + own * second) * 32 + tl.arange(0, 32)
        factor = step[:, None] * 0.5 * tl.load(scale + n, mask=n < outputs, other=0.0)[None, :]
        result = (2 * totals[own]).to(tl.float32) * factor
        if HAS_BIAS:
            result += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[None, :]
        results = results + (result,)
    return results


@jit
def put_blocks(
    y, largest_y, squares_y, weights_y, results, stride_y, tokens, outputs, first, second,
    ADDED: constexpr, ACTIVATION: constexpr, GATED: constexpr, TELLS: constexpr, SQUARES: constexpr, OWN: constexpr,
):  # fmt: skip
    """Does with the results of own blocks what comes next, as Target says."""
    r, n = tl.arange(0, _MOST), tl.arange(0, 32)
    if GATED:
        results = (activate(results[0], ACTIVATION) * results[1],)
    elif ACTIVATION != "":
        activated = ()
        for own in tl.static_range(OWN):
            activated = activated + (activate(results[own], ACTIVATION),)
        results = activated
    width = second * 32 if GATED else outputs
    for own in tl.static_range(len(results)):
        block = first + own * second
        at = block * 32 + n
        inside = (r < tokens)[:, None] & (at < width)[None, :]
        place = y + r.to(tl.int64)[:, None] * stride_y + at[None, :]
        value = results[own]
        if ADDED:
            value += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(place, value.to(y.dtype.element_ty), mask=inside)
        if TELLS:
            told = r * tl.cdiv(width, 32) + block
            there = (r < tokens) & (block * 32 < width)
            if SQUARES:
                tl.store(squares_y + told, tl.sum(tl.where(inside, value * value, 0.0), 1), mask=there)
                value = value * tl.load(weights_y + at, mask=at < width, other=0.0).to(tl.float32)[None, :]
            tl.store(largest_y + told, tl.max(tl.where(inside, size_of(value), 0.0), 1), mask=there)


def digit_rows(rows: Rows, tiles: Tensor, scale: Tensor, bias: Tensor | None, target: Target, scratch: Scratch) -> None:
    """Fills the target with the product of at most 8 rows, in one launch. tiles: as DigitWeights has them.

    gated: needs a number of outputs of which each half is whole blocks.
    """
    (tokens, inputs), y = rows.x.shape, target.y
    blocks, quads = tiles.shape[:2]
    count, tile = rows_of(tokens), digit_tile(rows_of(tokens), blocks, quads, target.gated)
    apart, second = (1, blocks // 2) if target.gated else (tile.blocks, 1)
    _tiles_kernel[cdiv(blocks, tile.blocks), tile.splits](
        *target.operands,
        scratch.counters, scratch.partial, scratch.digits,
        *rows.operands, tiles.view(torch.int32), scale, scale if bias is None else bias,
        y.stride(0), rows.x.stride(0), tokens, inputs, rows.largest.shape[1], rows.eps, len(scale), blocks, quads,
        tile.turns, apart, second,
        **target.constants, HAS_BIAS=bias is not None, SPLIT=tile.splits > 1,
        ROWS=count, OWN=tile.blocks, UNROLLED=tile.unrolled, NORM=rows.kind,
        num_warps=1, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip


def scratch_sizes(tokens: int, tiles: Tensor, gated: bool = False) -> tuple[int, int, int]:
    """Counters, digits and partial sums that a product of so many rows needs."""
    blocks, quads = tiles.shape[:2]
    tile = digit_tile(rows_of(tokens), blocks, quads, gated)
    digits = tile.splits * rows_of(tokens) * 2 * tile.turns * 16 * tile.unrolled
    return cdiv(blocks, tile.blocks), digits, tile.splits * blocks * MOST_TOKENS * 32 if tile.splits > 1 else 1


def digit_linear_triton(x: Tensor, tiles: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """y, [at most 8 tokens, outputs] in the dtype of x, in two launches. tiles: as DigitWeights has them."""
    y = x.new_empty(len(x), len(scale))
    scratch = Scratch.of(x.device, *scratch_sizes(len(x), tiles))
    bias = None if bias is None else bias.contiguous()
    digit_rows(measured(x), tiles, scale.contiguous(), bias, Target(y), scratch)
    return y
