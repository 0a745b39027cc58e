"""The first pass of a bit-plane FFN in Triton: what the high bits foresee of every neuron, and what is read for that.

A program owns a group of 16 neurons. Its threads read their planes from end to end, multiply fields by the rows' int8
activations, and add up; then a neuron of a row is a lane. What planes/choice.py decides goes into lists: neurons that
any row refines, and of the others those whose row of down any row wants. Their order is that of arrival, on which
nothing depends: all that follows is sums of integers.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

import torch
from torch import Tensor

from ..jit import cdiv, constant, constexpr, jit, tl
from ..rows import power_of_two, size_of
from .asked import Asked, between
from .fields import add_fields, chains_of, dots_of
from .foreseen import foreseen
from .layout import FIELDS, GROUP, PackedPlanes
from .scratch import Scratch

_GROUP = constant(GROUP)
WARPS = 4
LINES = 8 * WARPS  # that a program reads side by side: 16 bytes a thread


def unrolled_of(rows: int) -> int:
    """How many times so many lines are read side by side."""
    return 4 if rows == 8 else 2


@jit
def _score_kernel(
    lists, lengths, fine, dots, h, largest_h, counts,  # as in Scratch, int64 [2, rows]
    groups, digits, scale, total,  # words of groups; as in Scratch, digits as words
    thresholds, tiers, shares,  # as in Asked
    group_words, quads, width, room, last_tier, tokens,
    BITS: constexpr, MATRICES: constexpr, ACTIVATION: constexpr, ROWS: constexpr,
    CHAINS_4: constexpr, CHAINS_2: constexpr, CHAINS_1: constexpr,
    LINES: constexpr, UNROLLED: constexpr, STRIDE: constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    plane = groups + group.to(tl.int64) * group_words
    found = (tl.zeros([_GROUP], tl.int32),) * (MATRICES * ROWS)
    if BITS & 4:
        found = _with_plane(
            found, plane, digits, quads, 8 - BITS + BITS % 4, 4, MATRICES, ROWS, CHAINS_4, LINES, UNROLLED, STRIDE
        )
        plane += tl.cdiv(quads, 2 // MATRICES) * 16
    if BITS & 2:
        found = _with_plane(
            found, plane, digits, quads, 8 - BITS + BITS % 2, 2, MATRICES, ROWS, CHAINS_2, LINES, UNROLLED, STRIDE
        )
        plane += tl.cdiv(quads, 4 // MATRICES) * 16
    if BITS & 1:
        found = _with_plane(found, plane, digits, quads, 8 - BITS, 1, MATRICES, ROWS, CHAINS_1, LINES, UNROLLED, STRIDE)
        plane += tl.cdiv(quads, 8 // MATRICES) * 16

    neuron, r = group * 16 + tl.arange(0, _GROUP), tl.arange(0, ROWS)
    there = (r < tokens)[:, None] & (neuron < width)[None, :]
    size = tl.load(scale + r, mask=r < tokens, other=float("nan"))[:, None]
    short = tl.load(total + r, mask=r < tokens, other=0)[:, None] * ((1 << (8 - BITS)) - 257)
    fit = plane.to(tl.pointer_type(tl.bfloat16)) + tl.arange(0, _GROUP)
    value = tl.zeros([ROWS, _GROUP], tl.float32)
    deviation = value
    for m in tl.static_range(MATRICES):
        dot = tl.zeros([ROWS, _GROUP], tl.int32)
        for row in tl.static_range(ROWS):
            dot = tl.where((r == row)[:, None], found[row * MATRICES + m][None, :], dot)
        tl.store(dots + (m * 8 + r)[:, None] * room + neuron[None, :], dot, mask=there)
        z = (2 * dot.to(tl.int64) + short).to(tl.float32) * 0.5 * (size * _fitted(fit, m)) + _fitted(fit, MATRICES + m)
        error = _fitted(fit, 2 * MATRICES + m)
        if m == 0:
            value, deviation = foreseen(z, error, ACTIVATION)
        else:
            of_gate, of_up = deviation * z, value * error
            value, deviation = value * z, tl.sqrt_rn(of_gate * of_gate + of_up * of_up)

    importance = _fitted(fit, 3 * MATRICES)
    known, doubt = tl.abs(value) * importance, deviation * importance
    tier = tl.load(tiers + r, mask=r < tokens, other=0)
    share = tl.load(shares + r, mask=r < tokens, other=0.0)
    a = between(thresholds, tier, share, last_tier, 2, 0, r < tokens)[:, None]
    d = between(thresholds, tier, share, last_tier, 2, 1, r < tokens)[:, None]
    refined = there & (doubt > d) & (known * known + doubt * doubt > a * tl.abs(a) + d * tl.abs(d))
    active = there & (known > a) & (refined == 0)
    value = tl.where(active, value, 0.0)
    tl.store(h + r[:, None] * room + neuron[None, :], value, mask=there)
    tl.atomic_max(largest_h + r, tl.max(size_of(value), 1).to(tl.int32, bitcast=True), mask=r < tokens, sem="relaxed")
    tl.atomic_add(counts + r, tl.sum(active.to(tl.int64), 1), mask=r < tokens, sem="relaxed")
    tl.atomic_add(counts + tokens + r, tl.sum(refined.to(tl.int64), 1), mask=r < tokens, sem="relaxed")
    rows = tl.sum(refined.to(tl.int32) << r[:, None], 0)
    tl.store(fine + neuron, rows, mask=neuron < width)
    append(lists, lengths, neuron, rows > 0)
    append(lists + room + 1, lengths + 1, neuron, (rows == 0) & (tl.max((value != 0).to(tl.int32), 0) > 0))


@jit
def append(items, length, item, wanted):
    """Puts the wanted items at the end of a list."""
    some = wanted.to(tl.int32)
    count = tl.sum(some, 0)
    if count > 0:
        begin = tl.atomic_add(length, count, sem="relaxed")
        tl.store(items + begin + tl.cumsum(some, 0) - 1, item, mask=wanted)


@jit
def _fitted(fit, vector):
    """A vector of a group's fit, fp32 [1, neurons]."""
    return tl.load(fit + vector * 16).to(tl.float32)[None, :]


@jit
def _with_plane(
    found, plane, digits, quads, shift,
    WIDTH: constexpr, MATRICES: constexpr, ROWS: constexpr, CHAINS: constexpr,
    LINES: constexpr, UNROLLED: constexpr, STRIDE: constexpr,
):  # fmt: skip
    """The dot products with those of one plane of the group, int32 [neurons] of each row and matrix."""
    STEPS: constexpr = 8 // WIDTH // MATRICES
    n, each_line = tl.arange(0, _GROUP), tl.arange(0, LINES)
    zero = tl.zeros([LINES, _GROUP], tl.int32)
    sums = (zero,) * (CHAINS * ROWS)
    lines = tl.cdiv(quads, STEPS)
    whole = lines // (LINES * UNROLLED) * (LINES * UNROLLED)
    for top in range(0, whole, LINES * UNROLLED):
        words = ()
        for turn in tl.static_range(UNROLLED):
            line = top + turn * LINES + each_line
            words = words + (tl.load(plane + line[:, None] * 16 + n[None, :]),)
        for turn in tl.static_range(UNROLLED):
            at = digits + (top + turn * LINES + each_line) * STEPS
            sums = add_fields(sums, words[turn], at[:, None], 1, WIDTH, MATRICES, ROWS, CHAINS, STRIDE)
    for top in range(whole, lines, LINES):
        line = top + each_line
        word = tl.load(plane + tl.minimum(line, lines - 1)[:, None] * 16 + n[None, :])  # behind the last digits are 0
        at = digits + line * STEPS
        sums = add_fields(sums, word, at[:, None], 1, WIDTH, MATRICES, ROWS, CHAINS, STRIDE)
    totals = ()
    for each in tl.static_range(CHAINS * ROWS):
        totals = totals + (tl.sum(sums[each], 0),)
    parts = dots_of(totals, shift, WIDTH, MATRICES, ROWS, CHAINS)
    every = ()
    for each in tl.static_range(MATRICES * ROWS):
        every = every + (found[each] + parts[each],)
    return every


def score_(scratch: Scratch, counts: Tensor, packed: PackedPlanes, asked: Asked, activation: str) -> None:
    """Fills lists, lengths, fine, dots, h, largest and counts, int64 [2, rows], for the rows whose digits are there."""
    rows, matrices = counts.shape[1], 1 + packed.gated
    count = power_of_two(rows)
    chains = {f"CHAINS_{width}": chains_of(width, matrices, count) for width in FIELDS}
    _score_kernel[cdiv(packed.width, GROUP),](
        scratch.lists, scratch.lengths, scratch.fine, scratch.dots, scratch.h, scratch.largest, counts,
        packed.groups.view(torch.int32), scratch.digits.view(torch.int32), scratch.scale, scratch.total,
        asked.thresholds, asked.tiers, asked.shares,
        packed.groups.shape[1] // 4, cdiv(packed.hidden, 4), packed.width,
        scratch.h.shape[1], len(asked.thresholds) - 1, rows,
        BITS=packed.bits, MATRICES=matrices, ACTIVATION=activation, ROWS=count, **chains,
        LINES=LINES, UNROLLED=unrolled_of(count), STRIDE=scratch.stride // 4,
        num_warps=WARPS, num_stages=1, enable_fp_fusion=False,
    )  # fmt: skip
