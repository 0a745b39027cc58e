"""The rows of down of an FFN that chooses neurons, in Triton, each read once for all rows that want it; then floats.

    y[t, c] = float(2 sum over listed n of q[t, n] down[n, c]) step/2 scale[c] + bias[c] + constant[t, c]

with h in 16-bit fixed point, q = round(h / step), step = max |h| / 32639, as graded/digits.py has it. A program owns a
slice of 128 outputs and a run of the listed neurons, its split. Its threads read 16 bytes of two neurons at a time, put
them side by side and multiply them by the pair of numbers of each row. Sums are integers, added up in memory in any
order; the last program of a slice to arrive finishes it, as products of tiles are finished (digit_triton.py).
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from dataclasses import dataclass

import torch
from torch import Tensor

from ..digit_triton import MOST_TOKENS, put_blocks, scaled_blocks
from ..jit import cdiv, constant, constexpr, jit, tl
from ..pages import LINE
from ..rows import Target, fixed_point, power_of_two, step_of
from ..words import dot_pairs, side_by_side
from .asked import Asked, between
from .scratch import SLICE, Scratch

_ROWS = constant(MOST_TOKENS)
_PAIRS = constant(4)  # of neurons side by side
_WORDS, _BLOCKS = constant(SLICE // 4), constant(SLICE // 32)
_PIECE = constant(64)  # neurons whose numbers are made at a time
_WITHIN = constant(512)  # neurons whose products have a sum in int32: 512 * 32639 * 128 < 2^31
REGISTERS = 255  # of a thread


def unrolled_of(rows: int) -> int:
    """How many times four pairs are read side by side."""
    return 4 if rows <= 2 else 2


@jit
def _down_kernel(
    y, largest_y, squares_y, weights_y, counters, sums, pairs, places,  # as in Target and Scratch, pairs by 16 bits
    lists, lengths, h, largest_h, size,  # as in Scratch, size its scale
    down, scale, bias, constants, tiers, shares,  # as in PackedPlanes, down as words; as in Asked
    stride_y, room, lines, outputs, last_tier, full, tokens,
    ADDED: constexpr, ACTIVATION: constexpr, GATED: constexpr, TELLS: constexpr, SQUARES: constexpr,
    HAS_BIAS: constexpr, ROWS: constexpr, UNROLLED: constexpr, PAIR_ROOM: constexpr,
):  # fmt: skip
    slice_, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    length = tl.load(lengths + 1)
    share = tl.cdiv(length, splits * 2 * _PAIRS * UNROLLED) * 2 * _PAIRS * UNROLLED  # whole turns
    begin = split * share
    end = tl.minimum(begin + share, length)
    lists += room + 1 + begin
    pairs += split * _ROWS * PAIR_ROOM * 2
    places += split * PAIR_ROOM * 2
    words_of, both = pairs.to(tl.pointer_type(tl.int32)), places.to(tl.pointer_type(tl.int64))
    step = tl.zeros([_ROWS], tl.float32)
    r_all = tl.arange(0, _ROWS)
    for r in tl.static_range(ROWS):
        row = r + tl.arange(0, 1)
        most = tl.load(largest_h + row).to(tl.float32, bitcast=True)
        of_row = step_of(most)
        sound = (row < tokens) & (most < float("inf"))
        of_input = tl.load(size + row)
        of_row = tl.where(sound & (of_input == of_input), of_row, float("nan"))
        step = tl.where(r_all == r, of_row, step)
        for piece in range(0, share, _PIECE):
            i = piece + tl.arange(0, _PIECE)
            neuron = tl.load(lists + i, mask=begin + i < end, other=0)
            if r == 0:
                tl.store(places + i, neuron * lines, mask=i < share)
            value = tl.load(
                h + row[:, None] * room + neuron[None, :], mask=(begin + i < end)[None, :] & sound[:, None], other=0.0
            )
            q = fixed_point(value, sound, step_of(most))
            tl.store(pairs + r * PAIR_ROOM * 2 + i[None, :], q.to(tl.int16), mask=(i < share)[None, :])
    tl.debug_barrier()

    word = slice_ * _WORDS + tl.arange(0, _WORDS)
    at = tl.minimum(word // 4, lines * 4 - 1) * 4 + word % 4  # behind the last one it is read again, and nothing kept
    at = tl.max_contiguous(tl.multiple_of(at, 4), 4)
    for top in range(0, end - begin, _WITHIN):
        zero = tl.zeros([_PAIRS, _WORDS], tl.int32)
        found = (zero,) * (4 * ROWS)
        for start in range(top, tl.minimum(end - begin, top + _WITHIN), 2 * _PAIRS * UNROLLED):
            read = ()
            for turn in tl.static_range(UNROLLED):
                of_pair = tl.load(both + start // 2 + turn * _PAIRS + tl.arange(0, _PAIRS))
                for which in tl.static_range(2):
                    place = (of_pair >> (32 * which)).to(tl.int32)
                    read = read + (tl.load(down + (place.to(tl.int64) * 16)[:, None] + at[None, :]),)
            for turn in tl.static_range(UNROLLED):
                pair = start // 2 + turn * _PAIRS + tl.arange(0, _PAIRS)
                low = side_by_side(read[2 * turn], read[2 * turn + 1], 0)
                high = side_by_side(read[2 * turn], read[2 * turn + 1], 1)
                every = ()
                for r in tl.static_range(ROWS):
                    q = tl.load(words_of + r * PAIR_ROOM + pair)[:, None] + zero
                    every = every + (dot_pairs(q, low, 0, found[4 * r], True),)
                    every = every + (dot_pairs(q, low, 1, found[4 * r + 1], True),)
                    every = every + (dot_pairs(q, high, 0, found[4 * r + 2], True),)
                    every = every + (dot_pairs(q, high, 1, found[4 * r + 3], True),)
                found = every
        for each in tl.static_range(4 * ROWS):
            total = tl.sum(found[each], 0).to(tl.int64)
            tl.atomic_add(sums + each * _WORDS * tl.num_programs(0) + word, total, sem="relaxed")

    tl.debug_barrier()
    if tl.atomic_add(counters + slice_, 1, sem="acq_rel") == splits - 1:
        tl.store(counters + slice_, 0)
        totals = ()
        for block in tl.static_range(_BLOCKS):
            column = slice_ * _WORDS * 4 + block * 32 + tl.arange(0, 32)
            place = (r_all[:, None] * 4 + column[None, :] % 4) * _WORDS * tl.num_programs(0) + column[None, :] // 4
            mask = (r_all < tokens)[:, None] & (column >= 0)[None, :]
            totals = totals + (tl.load(sums + place, mask=mask, other=0, cache_modifier=".cg"),)
            tl.store(sums + place, tl.zeros([_ROWS, 32], tl.int64), mask=mask)
        first = slice_ * _BLOCKS
        found = scaled_blocks(totals, step, scale, bias, first, 1, outputs, HAS_BIAS, _BLOCKS)
        results = ()
        tier = tl.load(tiers + r_all, mask=r_all < tokens, other=0)[:, None]
        way = tl.load(shares + r_all, mask=r_all < tokens, other=0.0)[:, None]
        for block in tl.static_range(_BLOCKS):
            column = (first + block) * 32 + tl.arange(0, 32)
            here = ((r_all >= full) & (r_all < tokens))[:, None] & (column < outputs)[None, :]
            results = results + (
                found[block] + between(constants, tier, way, last_tier, outputs, column[None, :], here),
            )
        put_blocks(
            y, largest_y, squares_y, weights_y, results, stride_y, tokens, outputs, first, 1,
            ADDED, ACTIVATION, GATED, TELLS, SQUARES, _BLOCKS,
        )  # fmt: skip


@dataclass(frozen=True)
class Down:
    """rows: int8 [width, columns], neuron by neuron, in whole lines of 64; scale: fp32 [outputs]; bias the same."""

    rows: Tensor
    scale: Tensor
    bias: Tensor | None


def down_(target: Target, scratch: Scratch, down: Down, asked: Asked, full: int = 0) -> None:
    """Fills the target with what the listed neurons give, and the constants but for the first `full` rows."""
    rows, outputs, bias = len(target.y), len(down.scale), down.bias
    count = power_of_two(rows)
    _down_kernel[cdiv(outputs, SLICE), scratch.pairs.shape[0]](
        *target.operands, scratch.counters, scratch.sums, scratch.pairs.view(torch.int16), scratch.places,
        scratch.lists, scratch.lengths, scratch.h, scratch.largest, scratch.scale,
        down.rows.view(torch.int32), down.scale, down.scale if bias is None else bias,
        asked.constants, asked.tiers, asked.shares,
        target.y.stride(0), scratch.h.shape[1], down.rows.shape[1] // LINE, outputs,
        len(asked.constants) - 1, full, rows,
        **target.constants, HAS_BIAS=bias is not None, ROWS=count, UNROLLED=unrolled_of(count),
        PAIR_ROOM=scratch.pairs.shape[2],
        num_warps=1, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip
