"""Which inputs are read and how far, for a few tokens at a time, as lists that the products walk over.

Tokens stand in groups of ROWS, inputs in chunks of CHUNK. An input of a group is read as far as one of its tokens asks.
A chunk has a list for each level, one after the other; each is filled up to whole turns of TURN inputs by inputs that
weigh nothing. Slot s of a chunk holds an input, entries[s], and for row r

    pairs[s / 2, r] = q of slots s and s + 1, 16 bits each, 0 where the row does not read the input
    masks[s / 2, r] = bytes of those bits of a weight that the row reads, of the two slots in turns

turns[level] is the first turn of a level's list, turns[3] where the last one ends. facts[r] says of a row how many
inputs it reads, how many bits of all, and what its sum is short of: sum_k q_k (the number of the level - 256), as
weights w stand as w + 128.
"""

# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import torch
from torch import Tensor

from ..jit import cdiv, constexpr, jit, tl
from ..rows import Rows, fixed_point, normed_at, power_of_two, row_at

CHUNK = 256  # inputs whose products of q and a byte have a sum in int32: 256 * 32639 * 255 < 2^31
LEVELS = 3  # planes of 4, 2 and 2 bits
TURN = 4  # inputs
SLOTS = CHUNK + LEVELS * TURN + TURN  # of a chunk: lists that are filled up, in whole lines of 64 bytes
MAX_ROWS = 8  # of a group


class Lists(NamedTuple):
    """Places are [groups, chunks]; step: fp32 [groups * rows], of tokens that are no numbers infinite or NaN."""

    rows: int
    entries: Tensor  # int32 [places, SLOTS]
    turns: Tensor  # int32 [places, 4]
    pairs: Tensor  # int32 [places, SLOTS / 2, rows]
    masks: Tensor  # the same
    facts: Tensor  # int32 [places, rows, 3]
    step: Tensor

    @property
    def chunks(self) -> int:
        return self.turns.shape[1]

    @property
    def groups(self) -> int:
        return len(self.turns)


def rows_of(tokens: int) -> int:
    """How many tokens stand in a group: a power of two, at most MAX_ROWS."""
    return min(MAX_ROWS, power_of_two(tokens))


def warps_of(rows: int) -> int:
    """Of a program over so many rows of a chunk: with more values in a thread, divisions spill registers."""
    return {1: 4, 2: 8, 4: 8, 8: 16}[rows]


@jit
def _lists_kernel(
    entries, turns, pairs, masks, facts, step,  # as in Lists, pairs by 16 bits and masks by bytes
    x, largest, stats, weight, offset, thresholds, worth,  # as in Rows, [tokens], [levels]
    stride_x, tokens, inputs, parts, eps,
    NORM: constexpr, ROWS: constexpr, CHUNK: constexpr, SLOTS: constexpr,
):  # fmt: skip
    chunk, group = tl.program_id(0), tl.program_id(1)
    place = (group * tl.num_programs(0) + chunk).to(tl.int64)
    r = tl.arange(0, ROWS)
    row = group * ROWS + r
    limit = tl.load(thresholds + row, mask=row < tokens, other=0.0)
    mean, rate, size = _rows_at(largest, stats, group * ROWS, tokens, inputs, parts, eps, NORM, ROWS)
    sound = (size < float("inf")) & (limit == limit)
    tl.store(step + row, tl.where(sound, size, float("nan")))  # every chunk says the same
    k = chunk * CHUNK + tl.arange(0, CHUNK)
    value = normed_at(x, row, k, stride_x, tokens, inputs, mean, rate, weight, offset, NORM)
    q = fixed_point(value, sound, size)
    level = _levels(tl.where(sound[:, None], tl.abs(value), 0.0), limit[:, None], worth)
    q = tl.where(level > 0, q, 0)

    union = tl.max(level, 0)
    slot = tl.full([CHUNK], -1, tl.int32)
    first = 0
    for each in tl.static_range(3):
        here = (union == each + 1).to(tl.int32)
        count = tl.sum(here, 0)
        slot = tl.where(here > 0, 4 * first + tl.cumsum(here, 0) - 1, slot)
        tl.store(turns + place * 4 + each, first)
        empty = 4 * first + count + tl.arange(0, 4)
        first += (count + 3) // 4
        last = tl.max(tl.where(here > 0, k, 0), 0)  # is read again, which costs no memory
        tl.store(entries + place * SLOTS + empty, last + tl.zeros_like(empty), mask=empty < 4 * first)
        at = _pair_of(place, empty, r, SLOTS, ROWS) * 2 + (empty % 2)[None, :]
        tl.store(pairs + at, tl.zeros([ROWS, 4], tl.int16), mask=((r >= 0)[:, None] & (empty < 4 * first)[None, :]))
    tl.store(turns + place * 4 + 3, first)

    listed = (r >= 0)[:, None] & (slot >= 0)[None, :]
    at = _pair_of(place, slot, r, SLOTS, ROWS)
    under = 6 - 2 * level  # bits that are left unread
    bits = (256 - (1 << under)).to(tl.uint8)
    tl.store(entries + place * SLOTS + slot, k, mask=slot >= 0)
    tl.store(pairs + at * 2 + (slot % 2)[None, :], q.to(tl.int16), mask=listed)
    tl.store(masks + at * 4 + (slot % 2)[None, :], bits, mask=listed)
    tl.store(masks + at * 4 + (slot % 2)[None, :] + 2, bits, mask=listed)
    fact = facts + (place * ROWS + r) * 3
    tl.store(fact, tl.sum((level > 0).to(tl.int32), 1))
    tl.store(fact + 1, tl.sum(tl.where(level > 0, 8 - under, 0), 1))
    tl.store(fact + 2, tl.sum(q * ((1 << under) - 257), 1))


@jit
def _rows_at(largest, stats, first, tokens, inputs, parts, eps, NORM: constexpr, ROWS: constexpr):
    """Mean, rate and step of each row, fp32 [ROWS], one row after the other as `row_at` has them."""
    r = tl.arange(0, ROWS)
    means = tl.zeros([ROWS], tl.float32)
    rates, sizes = means, means
    for each in tl.static_range(ROWS):
        mean, rate, size = row_at(largest, stats, first + each + tl.arange(0, 1), tokens, inputs, parts, eps, NORM)
        means = tl.where(r == each, mean, means)
        rates = tl.where(r == each, rate, rates)
        sizes = tl.where(r == each, size, sizes)
    return means, rates, sizes


@jit
def _levels(size, limit, worth):
    """How many levels of an input are read: digits.graded_levels."""
    whole = (size > 0) & (limit <= 0)
    level = tl.zeros_like(size).to(tl.int32)
    for each in tl.static_range(3):
        level += ((limit > 0) & (size * tl.load(worth + each) > limit) | whole).to(tl.int32)
    return level


@jit
def _pair_of(place, slot, r, SLOTS: constexpr, ROWS: constexpr):
    """Where the pair of a slot stands, for every row: [rows, slots]."""
    return (place * (SLOTS // 2) + slot // 2)[None, :] * ROWS + r[:, None]


def listed(rows: Rows, worth: Tensor, thresholds: Tensor) -> Lists:
    """The lists of rows at thresholds: fp32 [tokens], in one launch."""
    (tokens, inputs), count = rows.x.shape, rows_of(len(rows.x))
    place = (cdiv(tokens, count), cdiv(inputs, CHUNK))

    def integers(*shape: int) -> Tensor:
        return thresholds.new_empty(*place, *shape, dtype=torch.int32)

    found = Lists(
        count, integers(SLOTS), integers(LEVELS + 1), integers(SLOTS // 2, count), integers(SLOTS // 2, count),
        integers(count, 3), thresholds.new_empty(place[0] * count),
    )  # fmt: skip
    _lists_kernel[place[1], place[0]](
        found.entries, found.turns, found.pairs.view(torch.int16), found.masks.view(torch.uint8), found.facts,
        found.step, *rows.operands, thresholds, worth,
        rows.x.stride(0), tokens, inputs, rows.largest.shape[1], rows.eps,
        ROWS=count, CHUNK=CHUNK, SLOTS=SLOTS, NORM=rows.kind, num_warps=warps_of(count), enable_fp_fusion=False,
    )  # fmt: skip
    return found
