"""The choice of a mixture for a few rows, in one launch of Triton: scores of every expert, parts, and blocks of pairs.

    part = softmax(choice n)[e] of the experts of highest score, over their sum where normalised

A program owns an expert's row of the matrix; the last one to arrive looks at all scores. Of equal ones the first expert
is taken. A row that is no number takes some, with parts that are none.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

import torch
from torch import Tensor

from ..digit_triton import MOST_TOKENS
from ..instructions import Choice
from ..jit import constant, constexpr, jit, tl
from ..planes.asked import between
from ..rows import power_of_two
from .assigned import NOBODY, Assigned

INPUTS, WARPS = 1024, 4
_LEAST = constant(-3.0e38)  # of what is to be taken before what is not there
_PIECE, _NOBODY = constant(256), constant(NOBODY)


@jit
def _choose_kernel(
    parts, pairs, experts, count, largest,  # as in Assigned; int32 [pairs], 0, or NOBODY
    counts, logits, arrived,  # int64 [2, rows]; fp32 [rows, experts]; int32 [1], zero, and zero again afterwards
    normed, choice, wanted, tiers, shares,  # fp32 [rows, stride], [experts, inputs], [tiers], as in Asked
    stride, inputs, num_experts, active, neurons, last_tier, full, tokens, rounding,
    NORMALISED: constexpr, TIERED: constexpr, ROWS: constexpr, BLOCK_ROWS: constexpr, EXPERTS: constexpr,
    INPUTS: constexpr,
):  # fmt: skip
    expert = tl.program_id(0)
    sums = (tl.zeros([INPUTS], tl.float32),) * ROWS
    for start in range(0, inputs, INPUTS):
        k = start + tl.arange(0, INPUTS)
        weight = tl.load(choice + expert.to(tl.int64) * inputs + k, mask=k < inputs, other=0.0).to(tl.float32)
        found = ()
        for r in tl.static_range(ROWS):
            value = tl.load(normed + r * stride + k, mask=(k < inputs) & (r < tokens), other=0.0)
            found = found + (sums[r] + weight * value,)
        sums = found
    for r in tl.static_range(ROWS):
        tl.store(logits + r * num_experts + expert, tl.sum(sums[r], 0))
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(arrived, 0)
        r_all, e = tl.arange(0, ROWS), tl.arange(0, EXPERTS)
        there = (r_all < tokens)[:, None] & (e < num_experts)[None, :]
        place = logits + r_all[:, None] * num_experts + e[None, :]
        score = tl.load(place, mask=there, other=float("-inf"), cache_modifier=".cg")
        taken = tl.zeros([ROWS], tl.int32) + active
        if TIERED:
            tier = tl.load(tiers + r_all, mask=r_all < tokens, other=0)
            share = tl.load(shares + r_all, mask=r_all < tokens, other=0.0)
            asked = tl.ceil(between(wanted, tier, share, last_tier, 1, 0, r_all < tokens) - rounding).to(tl.int32)
            taken = tl.where(r_all < full, active, tl.minimum(tl.maximum(asked, 1), active))
        tl.store(counts + r_all, (taken * neurons).to(tl.int64), mask=r_all < tokens)
        key = tl.where(score > _LEAST, score, _LEAST)  # a number in any case
        chosen = _highest(tl.where(there, key, float("-inf")), taken, active, there, e)
        chance = tl.exp(score - tl.where(r_all < tokens, tl.max(key, 1), 0.0)[:, None])
        part = tl.where(chosen > 0, chance / _whole(chance, r_all, tokens), 0.0)
        if NORMALISED:
            part = part / _whole(part, r_all, tokens)
        pair = r_all[:, None] * active + tl.cumsum(chosen, 1) - chosen
        for start in range(0, tokens * active * BLOCK_ROWS, _PIECE):
            i = start + tl.arange(0, _PIECE)
            tl.store(pairs + i, -1, mask=i < tokens * active * BLOCK_ROWS)
            tl.store(largest + i, _NOBODY, mask=i < tokens * active)
            tl.store(parts + i, 0.0, mask=i < tokens * active)
        tl.debug_barrier()
        blocks = tl.cdiv(tl.sum(chosen, 0), BLOCK_ROWS)
        first, rank = (tl.cumsum(blocks, 0) - blocks)[None, :], tl.cumsum(chosen, 0) - chosen
        tl.store(pairs + first * BLOCK_ROWS + rank, pair, mask=chosen > 0)
        tl.store(experts + first + rank // BLOCK_ROWS, e[None, :] + tl.zeros_like(rank), mask=chosen > 0)
        tl.store(parts + pair, part, mask=chosen > 0)
        tl.store(largest + pair, tl.zeros_like(pair), mask=chosen > 0)
        tl.store(count, tl.sum(blocks, 0))


@jit
def _whole(chance, r, tokens):
    """fp32 [rows, 1], the sums of rows that are there."""
    return tl.where(r < tokens, tl.sum(chance, 1), 1.0)[:, None]


@jit
def _highest(key, taken, active, there, e):
    """Which experts a row takes, int32 [rows, experts] of 0 and 1. key: their scores, -infinity where none is there."""
    chosen = tl.zeros_like(key).to(tl.int32)
    for i in range(0, active):
        hit = e[None, :] == tl.argmax(key, 1)[:, None]
        chosen = tl.where(hit & there & (i < taken)[:, None], 1, chosen)
        key = tl.where(hit, float("-inf"), key)
    return chosen


def choose_(
    assigned: Assigned,
    largest: Tensor,
    counts: Tensor,
    logits: Tensor,
    arrived: Tensor,
    normed: Tensor,
    matrix: Tensor,
    choice: Choice,
    asked: tuple[Tensor, Tensor],
    full: int,
) -> None:
    """Fills assigned, counts, int64 [2, rows], and largest for rows of normed. asked: tiers and shares.

    The first `full` rows take as many experts as there are at the full tier.
    """
    rows, (experts, inputs) = counts.shape[1], matrix.shape
    wanted = assigned.parts if choice.counts is None else choice.counts
    _choose_kernel[experts,](
        assigned.parts, assigned.pairs, assigned.experts, assigned.count, largest,
        counts, logits, arrived, normed, matrix, wanted, *asked,
        normed.stride(0), inputs, experts, choice.active, choice.neurons,
        0 if choice.counts is None else len(choice.counts) - 1, full, rows, choice.rounding,
        NORMALISED=choice.normalised, TIERED=choice.counts is not None, ROWS=power_of_two(rows),
        BLOCK_ROWS=assigned.rows, EXPERTS=power_of_two(experts), INPUTS=INPUTS,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def logits_of(device: torch.device, experts: int) -> tuple[Tensor, Tensor]:
    """Room for scores, and a counter."""
    return torch.empty(MOST_TOKENS, experts, device=device), torch.zeros(1, dtype=torch.int32, device=device)
