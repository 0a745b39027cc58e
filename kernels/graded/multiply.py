"""The products of a graded linear in Triton: planes of listed inputs (lists.py), two of them side by side.

A program owns a slice of outputs and a part of the turns of a chunk. A thread reads words of the first plane, 16 bytes
of them where rows are few, and the words of the other planes that belong to them; joins the fields to bytes; puts bytes
of two inputs side by side and multiplies them by the two inputs of a pair, row by row, in integers: of one word of two
inputs 8 outputs. What the inputs of a chunk add up to fits into int32, so that the sums are exact in any order.

    partial[split, token, i, t] = sum over the split's inputs of q (w + 128 as far as it is read)

for field i of word t of the first plane, in bits 4 (i / 4), byte i mod 4 (layout.py; finish.py knows its output).
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from dataclasses import dataclass

import torch
from torch import Tensor

from ..jit import cdiv, constant, constexpr, jit, tl
from ..words import dot_pairs, merged, side_by_side
from .layout import PackedGraded, plane_starts
from .lists import SLOTS, Lists

FIELDS = 8  # of a word of the first plane
_PROGRAMS = 1024  # that keep a GPU's memory busy: about 8 of a warp for each of its multiprocessors
_MOST_PARTS = 8  # of a chunk: turns are few
_LOWER = constant(0x0F0F0F0F)
_PAIRS = constant(-0x33333334)  # 0xCCCCCCCC


@dataclass(frozen=True)
class GradedTile:
    """words: of the first plane, of a program of one warp; parts: programs that share a chunk's turns."""

    words: int
    parts: int


def graded_tile(rows: int, lanes: int, places: int) -> GradedTile:
    """rows: of a group; lanes: pieces of 16 bytes of the first plane; places: groups times chunks.

    8 rows have sums for two words a thread, fewer for four, which are one load.
    """
    words, parts = 64 if rows > 4 else 128, 1
    while parts < _MOST_PARTS and parts * places * cdiv(4 * lanes, words) < _PROGRAMS:
        parts *= 2
    return GradedTile(words, parts)


@jit
def _planes_kernel(
    partial,  # int32 [splits, groups * ROWS, 8, words]
    planes,  # words of [inputs, row_words]
    entries, turns, pairs, masks,  # as in Lists
    row_words, lanes, parts,
    ROWS: constexpr, WORDS: constexpr, SLOTS: constexpr,
):  # fmt: skip
    split, group = tl.program_id(1), tl.program_id(2)
    place = (group * (tl.num_programs(1) // parts) + split // parts).to(tl.int64)
    part = split % parts
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    lane = tl.minimum(word // 4, lanes - 1)  # beyond the last one it is read again, and nothing kept
    at = tl.max_contiguous(tl.multiple_of(lane * 4 + word % 4, 4), 4)
    tail = lane >= lanes // 4 * 4  # in a block of 64 outputs
    low_lane, field = tl.where(tail, 0, lane % 2), tl.where(tail, lane % 2, lane // 2 % 2)
    low = lane // 4 * 8 + low_lane * 4 + word % 4 + 4 * lanes  # of the second plane
    low = tl.max_contiguous(tl.multiple_of(low, 4), 4)
    entries += place * SLOTS
    pairs += place * (SLOTS // 2 * ROWS)
    masks += place * (SLOTS // 2 * ROWS)
    turns += place * 4

    zero = tl.zeros([WORDS], tl.int32)
    sums = (zero,) * (8 * ROWS)
    for turn in range(tl.load(turns) + part, tl.load(turns + 1), parts):
        sums = _turn(sums, planes, entries, pairs, masks, turn, row_words, lanes, at, low, field, 4, ROWS)
    sums = _separated(sums, ROWS)
    for turn in range(tl.load(turns + 1) + part, tl.load(turns + 2), parts):
        sums = _turn(sums, planes, entries, pairs, masks, turn, row_words, lanes, at, low, field, 6, ROWS)
    for turn in range(tl.load(turns + 2) + part, tl.load(turns + 3), parts):
        sums = _turn(sums, planes, entries, pairs, masks, turn, row_words, lanes, at, low, field, 8, ROWS)

    width = 4 * lanes
    target = partial + (split.to(tl.int64) * tl.num_programs(2) + group) * ROWS * 8 * width + word
    for i in tl.static_range(8 * ROWS):
        tl.store(target + i * width, sums[i], mask=word < width)


@jit
def _turn(
    sums, planes, entries, pairs, masks, turn, row_words, lanes, at, low, field,
    BITS: constexpr, ROWS: constexpr,
):  # fmt: skip
    """Adds the products of the two pairs of a turn."""
    for pair in tl.static_range(2):
        place = 2 * turn + pair
        first = planes + tl.load(entries + 2 * place).to(tl.int64) * row_words
        second = planes + tl.load(entries + 2 * place + 1).to(tl.int64) * row_words
        a = _read(first, lanes, at, low, field, BITS)
        b = _read(second, lanes, at, low, field, BITS)
        words = ()
        for i in tl.static_range(len(a)):
            words = words + (side_by_side(a[i], b[i], 0), side_by_side(a[i], b[i], 1))
        if BITS == 4:
            words = (words[0] & _LOWER, words[1] & _LOWER, words[0], words[1])
        found = ()
        for r in tl.static_range(ROWS):
            q = tl.load(pairs + place * ROWS + r)
            for i in tl.static_range(4):
                word = words[i]
                if BITS > 4 and ROWS > 1:
                    word = word & tl.load(masks + place * ROWS + r)
                found = found + (dot_pairs(q, word, 0, sums[8 * r + 2 * i]),)
                found = found + (dot_pairs(q, word, 1, sums[8 * r + 2 * i + 1]),)
        sums = found
    return sums


@jit
def _read(row, lanes, at, low, field, BITS: constexpr):
    """Words of an input as far as BITS: of the first plane as they are, or bytes for its lower and its upper halves."""
    first = tl.load(row + at)
    if BITS == 4:
        found = (first,)
    else:
        second = tl.load(row + low) << (2 - 2 * field)
        if BITS == 6:
            below = second & _PAIRS
        else:
            third = tl.load(row + low + lanes // 2 * 4) >> (2 * field)
            below = merged(second, third, "0xcccccccc")
        found = (merged(first << 4, below, "0xf0f0f0f0"), merged(first, below >> 4, "0xf0f0f0f0"))
    return found


@jit
def _separated(sums, ROWS: constexpr):
    """Of sums over lower halves of bytes and over whole bytes, those over bytes whose upper half each of them is."""
    found = ()
    for r in tl.static_range(ROWS):
        for i in tl.static_range(4):
            found = found + (sums[8 * r + i] * 16,)
        for i in tl.static_range(4):
            found = found + (sums[8 * r + 4 + i] - sums[8 * r + i],)
    return found


def partial_sums(packed: PackedGraded, lists: Lists) -> Tensor:
    """int32 [splits, groups * rows, FIELDS, words], in one launch."""
    lanes = plane_starts(packed.outputs, packed.planes)[1] // 16
    tile = graded_tile(lists.rows, lanes, lists.groups * lists.chunks)
    splits = lists.chunks * tile.parts
    partial = lists.turns.new_empty(splits, lists.groups * lists.rows, FIELDS, 4 * lanes)
    _planes_kernel[cdiv(4 * lanes, tile.words), splits, lists.groups](
        partial, packed.rows.view(torch.int32), lists.entries, lists.turns, lists.pairs, lists.masks,
        packed.rows.stride(0) // 4, lanes, tile.parts,
        ROWS=lists.rows, WORDS=tile.words, SLOTS=SLOTS,
        num_warps=1, num_stages=1,
    )  # fmt: skip
    return partial
