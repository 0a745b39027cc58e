"""The second pass of a bit-plane FFN in Triton: low planes of the neurons that any row refines, each read once.

A program of one warp takes a few neurons of the list at a time, multiplies their low planes by the activations of every
row, and adds what the high bits gave. A row that does not refine a neuron keeps what it foresaw of it. Neurons whose
row of down any row wants are listed with those that the first pass found.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

import torch
from torch import Tensor

from ..activations import activate
from ..jit import cdiv, constexpr, jit, tl
from ..rows import power_of_two, size_of
from .asked import Asked, between
from .fields import add_fields, chains_of, dots_of
from .layout import FIELDS, PackedPlanes, low_part_bytes
from .score import append
from .scratch import Scratch

WORDS = 128  # of a plane, 16 bytes a thread
_PROGRAMS = 1024
REGISTERS = 255  # of a thread: left to itself, the compiler spills a few


def neurons_of(rows: int, matrices: int, low: int) -> int:
    """Neurons whose planes a program reads side by side: sums of more rows, and planes of one bit, take registers."""
    if rows == 8 and low % 2:
        return 1
    return 4 if rows * matrices <= 2 else 2


@jit
def _refine_kernel(
    lists, lengths, h, largest_h, counts,  # as in Scratch, int64 [2, rows]
    fine, dots, low, exact, importance,  # as in Scratch; words of low; as in PackedPlanes; bf16 within groups
    digits, scale, total, thresholds, tiers, shares,  # as in Scratch, digits as words; as in Asked
    low_words, vectors, group_halves, part_4, part_2, part_1, width, room, last_tier, tokens,
    BITS: constexpr, REFINED: constexpr, MATRICES: constexpr, BIASED: constexpr, ACTIVATION: constexpr, ROWS: constexpr,
    CHAINS_4: constexpr, CHAINS_2: constexpr, CHAINS_1: constexpr,
    NEURONS: constexpr, WORDS: constexpr, STRIDE: constexpr,
):  # fmt: skip
    LOW: constexpr = REFINED - BITS
    each, r = tl.arange(0, NEURONS), tl.arange(0, ROWS)
    length = tl.load(lengths)
    size = tl.load(scale + r, mask=r < tokens, other=float("nan"))[:, None]
    short = tl.load(total + r, mask=r < tokens, other=0)[:, None] * ((1 << (8 - REFINED)) - 257)
    tier = tl.load(tiers + r, mask=r < tokens, other=0)
    share = tl.load(shares + r, mask=r < tokens, other=0.0)
    a = between(thresholds, tier, share, last_tier, 2, 0, r < tokens)[:, None]
    for top in range(tl.program_id(0) * NEURONS, length, tl.num_programs(0) * NEURONS):
        place = top + each
        neuron = tl.load(lists + tl.minimum(place, length - 1))
        plane = low + neuron.to(tl.int64) * low_words
        found = (tl.zeros([NEURONS], tl.int32),) * (MATRICES * ROWS)
        if LOW & 4:
            found = _with_plane(
                found, plane, digits, part_4, 8 - REFINED + LOW % 4, 4, MATRICES, ROWS, CHAINS_4, NEURONS, WORDS, STRIDE
            )
            plane += part_4
        if LOW & 2:
            found = _with_plane(
                found, plane, digits, part_2, 8 - REFINED + LOW % 2, 2, MATRICES, ROWS, CHAINS_2, NEURONS, WORDS, STRIDE
            )
            plane += part_2
        if LOW & 1:
            found = _with_plane(
                found, plane, digits, part_1, 8 - REFINED, 1, MATRICES, ROWS, CHAINS_1, NEURONS, WORDS, STRIDE
            )

        rows = tl.where(place < length, tl.load(fine + neuron), 0)
        refined = ((rows[None, :] >> r[:, None]) & 1) > 0
        value = tl.zeros([ROWS, NEURONS], tl.float32)
        for m in tl.static_range(MATRICES):
            dot = tl.load(dots + (m * 8 + r)[:, None] * room + neuron[None, :], mask=refined, other=0)
            for row in tl.static_range(ROWS):
                dot += tl.where((r == row)[:, None], found[row * MATRICES + m][None, :], 0)
            of_row = tl.load(exact + neuron * vectors + m)[None, :]
            z = (2 * dot.to(tl.int64) + short).to(tl.float32) * 0.5 * (size * of_row)
            if BIASED:
                z += tl.load(exact + neuron * vectors + MATRICES + m)[None, :]
            value = activate(z, ACTIVATION) if m == 0 else value * z
        worth = tl.load(importance + (neuron // 16).to(tl.int64) * group_halves + neuron % 16).to(tl.float32)
        active = refined & (tl.abs(value) * worth[None, :] > a)
        value = tl.where(active, value, 0.0)
        before = tl.load(
            h + r[:, None] * room + neuron[None, :], mask=(r < tokens)[:, None] & (place < length)[None, :], other=0.0
        )
        tl.store(h + r[:, None] * room + neuron[None, :], value, mask=refined)
        wanted = tl.max((tl.where(refined, value, before) != 0).to(tl.int32), 0) > 0
        append(lists + room + 1, lengths + 1, neuron, wanted & (place < length))
        tl.atomic_max(
            largest_h + r, tl.max(size_of(value), 1).to(tl.int32, bitcast=True), mask=r < tokens, sem="relaxed"
        )
        tl.atomic_add(counts + r, tl.sum(active.to(tl.int64), 1), mask=r < tokens, sem="relaxed")


@jit
def _with_plane(
    found, plane, digits, words, shift,
    WIDTH: constexpr, MATRICES: constexpr, ROWS: constexpr, CHAINS: constexpr,
    NEURONS: constexpr, WORDS: constexpr, STRIDE: constexpr,
):  # fmt: skip
    """The dot products with those of one plane of the neurons, int32 [neurons] of each row and matrix."""
    word = tl.arange(0, WORDS)
    zero = tl.zeros([NEURONS, WORDS], tl.int32)
    sums = (zero,) * (CHAINS * ROWS)
    for top in range(0, words, WORDS):
        at = top + word
        here = tl.load(plane[:, None] + at[None, :], mask=(at < words)[None, :], other=0)
        sums = add_fields(sums, here, (digits + at)[None, :], words, WIDTH, MATRICES, ROWS, CHAINS, STRIDE)
    totals = ()
    for each in tl.static_range(CHAINS * ROWS):
        totals = totals + (tl.sum(sums[each], 1),)
    parts = dots_of(totals, shift, WIDTH, MATRICES, ROWS, CHAINS)
    every = ()
    for each in tl.static_range(MATRICES * ROWS):
        every = every + (found[each] + parts[each],)
    return every


def refine_(scratch: Scratch, counts: Tensor, packed: PackedPlanes, asked: Asked, activation: str) -> None:
    """Corrects h and largest, and adds to the second list and to counts, int64 [2, rows]."""
    rows, matrices = counts.shape[1], 1 + packed.gated
    count = power_of_two(rows)
    neurons, halves = neurons_of(count, matrices, packed.refined_bits - packed.bits), packed.groups.view(torch.bfloat16)
    chains = {f"CHAINS_{width}": chains_of(width, matrices, count) for width in FIELDS}
    parts = [low_part_bytes(packed.hidden, width, matrices) // 4 for width in FIELDS]
    _refine_kernel[min(_PROGRAMS, cdiv(packed.width, neurons)),](
        scratch.lists, scratch.lengths, scratch.h, scratch.largest, counts,
        scratch.fine, scratch.dots, packed.low.view(torch.int32), packed.exact,
        halves[:, packed.importance_offset // 2 :],
        scratch.digits.view(torch.int32), scratch.scale, scratch.total, asked.thresholds, asked.tiers, asked.shares,
        packed.low.shape[1] // 4, packed.exact.shape[1], halves.shape[1],
        *parts, packed.width, scratch.h.shape[1], len(asked.thresholds) - 1, rows,
        BITS=packed.bits, REFINED=packed.refined_bits, MATRICES=matrices, BIASED=packed.biased,
        ACTIVATION=activation, ROWS=count, **chains, NEURONS=neurons, WORDS=WORDS,
        STRIDE=scratch.stride // 4,
        num_warps=1, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip
