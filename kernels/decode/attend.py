"""What attention does for one new token of each row, in one launch of Triton: rotation, a write to the pages, softmax.

    mixed = softmax(q k^T / sqrt(size)) v over the positions of the row's sequence up to its own

A program has a row, a key head with the query heads that share it, and PART positions. Its own key and value go to
their page as they are kept there, and are attended to as they are kept. Parts lie at fixed positions and the last to
arrive joins them in order (Dao et al., "Flash-Decoding", 2023), so that a row has the same bits in any batch.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from dataclasses import dataclass

import torch
from torch import Tensor

from ..jit import cdiv, constexpr, jit, tl
from ..paged_attention import BLOCK_TOKENS, KVPages
from ..rows import power_of_two, size_of, to_even
from ..weighing import Weighing

PART = 512  # positions
_ALL = 1 << 30  # a window that no sequence fills
WARPS = 4
REGISTERS = 255  # of a thread: left to itself, the compiler spills a few


@dataclass(frozen=True)
class Heads:
    """query: [rows, heads * size], key and value: [rows, kv_heads * size], each row contiguous.

    turn: cosines and sines fp32 [positions, values of all tables], as rope.rotation gives them; the first `turned`
    values of a head turn, by those from column `table` on.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    size: int
    turn: tuple[Tensor, Tensor] | None
    turned: int = 0
    table: int = 0


@dataclass(frozen=True)
class Parts:
    """Room for what parts find. sums: fp32 [rows, heads, parts, size + 2]; counters: int32 [rows, kv_heads], zeros, and
    zeros again after each launch.
    """

    sums: Tensor
    counters: Tensor

    @classmethod
    def of(cls, rows: int, heads: int, kv_heads: int, size: int, positions: int, device: torch.device) -> "Parts":
        """Room for sequences of so many positions at most."""
        sums = torch.empty(rows, heads, cdiv(positions, PART), size + 2, device=device)
        return cls(sums, torch.zeros(rows, kv_heads, dtype=torch.int32, device=device))


def positions_of(group: int) -> int:
    """How many positions a program looks at side by side, for so many query heads of a key: registers are few."""
    return 32 if group < 8 else 16


@jit
def _attend_kernel(
    mixed, largest, sums, counters,  # [rows, heads * size], [rows, heads], as in Parts
    query, key, value, cosine, sine,
    keys, values, key_scale, value_scale, tables, positions,
    stride_mixed, stride_q, stride_k, stride_v, stride_table, stride_turn, kv_heads, size, stored,
    turned, window, factor, soft_cap,
    GROUP: constexpr, SIZE: constexpr, TURNED: constexpr, CAPPED: constexpr, INT8: constexpr,
    BLOCK_TOKENS: constexpr, PART: constexpr, STEP: constexpr,
):  # fmt: skip
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + row)
    oldest = tl.maximum(position - window + 1, 0)
    if (part * PART > position) | ((part + 1) * PART <= oldest):
        return
    d, heads = tl.arange(0, SIZE), kv_heads * GROUP
    own = position // PART == part
    turn = position.to(tl.int64) * stride_turn
    at_key = key + row * stride_k + head * size
    new_key = _turned(at_key, cosine + turn, sine + turn, d, size, turned, TURNED)
    new_value = tl.load(value + row * stride_v + head * size + d, mask=d < size, other=0.0).to(tl.float32)
    block = tl.load(tables + row * stride_table + position // BLOCK_TOKENS).to(tl.int64)
    place = (block * kv_heads + head) * BLOCK_TOKENS + position % BLOCK_TOKENS
    new_key = _kept(keys, key_scale, place, new_key, d, size, stored, own, INT8)
    new_value = _kept(values, value_scale, place, new_value, d, size, stored, own, INT8)

    queries, most, total, mix = (), (), (), ()
    for g in tl.static_range(GROUP):
        of_query = query + row * stride_q + (head * GROUP + g) * size
        q = _turned(of_query, cosine + turn, sine + turn, d, size, turned, TURNED) * factor
        queries = queries + (q,)
        most = most + (tl.where(own, _capped(tl.sum(q * new_key, 0), soft_cap, CAPPED), float("-inf")),)
        total = total + (tl.where(own, 1.0, 0.0),)
        mix = mix + (tl.where(own, new_value, 0.0),)
    end = tl.minimum(position, (part + 1) * PART)
    for start in range(tl.maximum(part * PART, oldest // STEP * STEP), end, STEP):
        p = start + tl.arange(0, STEP)
        seen = (p < end) & (p >= oldest)
        blocks = tl.load(tables + row * stride_table + p // BLOCK_TOKENS, mask=p < end, other=0).to(tl.int64)
        at = (blocks * kv_heads + head) * BLOCK_TOKENS + p % BLOCK_TOKENS
        k = _held(keys, key_scale, at, p < end, d, size, stored, INT8)
        v = _held(values, value_scale, at, p < end, d, size, stored, INT8)
        mosts, totals, mixes = (), (), ()
        for g in tl.static_range(GROUP):
            score = _capped(tl.sum(k * queries[g][None, :], 1), soft_cap, CAPPED)
            score = tl.where(seen, score, float("-inf"))
            high = tl.maximum(most[g], tl.max(score, 0))
            shrink, weight = tl.exp(most[g] - high), tl.exp(score - high)
            mosts = mosts + (high,)
            totals = totals + (total[g] * shrink + tl.sum(weight, 0),)
            mixes = mixes + (mix[g] * shrink + tl.sum(weight[:, None] * v, 0),)
        most, total, mix = mosts, totals, mixes

    first = oldest // PART
    parts = position // PART + 1 - first
    if parts == 1:
        for g in tl.static_range(GROUP):
            _put(mixed + row * stride_mixed, largest + row * heads, head * GROUP + g, mix[g] / total[g], d, size)
    else:
        width = size + 2
        room = sums + (row * heads + head * GROUP) * tl.num_programs(2) * width
        for g in tl.static_range(GROUP):
            here = room + (g * tl.num_programs(2) + part) * width
            tl.store(here + d, mix[g], mask=d < size)
            tl.store(here + size, most[g])
            tl.store(here + size + 1, total[g])
        tl.debug_barrier()
        counter = counters + row * kv_heads + head
        if tl.atomic_add(counter, 1, sem="acq_rel") == parts - 1:
            tl.store(counter, 0)
            for g in tl.static_range(GROUP):
                joined = _joined(room + (g * tl.num_programs(2) + first) * width, parts, d, size, width, SIZE)
                _put(mixed + row * stride_mixed, largest + row * heads, head * GROUP + g, joined, d, size)


@jit
def _turned(head, cosine, sine, d, size, turned, TURNED: constexpr):
    """A head at its position, fp32 [SIZE]."""
    value = tl.load(head + d, mask=d < size, other=0.0).to(tl.float32)
    if TURNED:
        turns = d < turned
        other = tl.where(d < turned // 2, d + turned // 2, d - turned // 2)
        across = tl.load(head + other, mask=turns, other=0.0).to(tl.float32)
        cos, sin = tl.load(cosine + d, mask=turns, other=1.0), tl.load(sine + d, mask=turns, other=0.0)
        value = value * cos + across * sin
    return value


@jit
def _capped(score, soft_cap, CAPPED: constexpr):
    """soft_cap tanh(score / soft_cap)."""
    if CAPPED:
        twice = tl.exp(-2.0 * tl.abs(score) / soft_cap)
        size = soft_cap * (1.0 - twice) / (1.0 + twice)
        score = tl.where(score < 0, -size, size)
    return score


@jit
def _kept(pool, scale, place, value, d, size, stored, own, INT8: constexpr):
    """The value as its page keeps it; whoever owns it puts it there."""
    target = pool + place * stored + d
    if INT8:
        step = tl.maximum(tl.max(tl.abs(value), 0) / 127.0, 1e-30)
        ratio = tl.div_rn(value, step + tl.zeros_like(value))
        whole = to_even(ratio)
        tl.store(target, whole.to(tl.int8), mask=(d < size) & own)
        tl.store(scale + place, step, mask=own)
        found = whole * step
    else:
        kept = value.to(pool.dtype.element_ty)
        tl.store(target, kept, mask=(d < size) & own)
        found = kept.to(tl.float32)
    return found


@jit
def _held(pool, scale, place, inside, d, size, stored, INT8: constexpr):
    """What pages keep of some positions, fp32 [positions, SIZE]."""
    mask = inside[:, None] & (d < size)[None, :]
    found = tl.load(pool + place[:, None] * stored + d[None, :], mask=mask, other=0.0).to(tl.float32)
    if INT8:
        found = found * tl.load(scale + place, mask=inside, other=0.0)[:, None]
    return found


@jit
def _joined(room, parts, d, size, width, SIZE: constexpr):
    """The parts of a head in their order, fp32 [SIZE]."""
    mix = tl.zeros([SIZE], tl.float32)
    total = tl.sum(mix, 0)
    most = total + float("-inf")
    for part in range(0, parts):
        here = room + part * width
        high = tl.load(here + size, cache_modifier=".cg")
        both = tl.maximum(most, high)
        shrink, grow = tl.exp(most - both), tl.exp(high - both)
        total = total * shrink + tl.load(here + size + 1, cache_modifier=".cg") * grow
        mix = mix * shrink + tl.load(here + d, mask=d < size, other=0.0, cache_modifier=".cg") * grow
        most = both
    return mix / total


@jit
def _put(mixed, largest, head, value, d, size):
    tl.store(mixed + head * size + d, value.to(mixed.dtype.element_ty), mask=d < size)
    tl.store(largest + head, tl.max(tl.where(d < size, size_of(value), 0.0), 0))


def attend_rows(
    mixed: Tensor,
    largest: Tensor,
    heads: Heads,
    weighing: Weighing,
    pages: KVPages,
    tables: Tensor,
    positions: Tensor,
    parts: Parts,
) -> None:
    """Fills mixed, [rows, heads * size], and largest, fp32 [rows, heads], of |mixed|, and stores keys and values.

    tables: int32 [rows, blocks]; positions: int32 [rows]. Nothing is asked of the device: positions beyond the room of
    `parts` would be left out, and the caller sees that there are none.
    """
    rows, size, kv_heads = len(mixed), heads.size, pages.keys.shape[1]
    group = heads.query.shape[1] // size // kv_heads
    cosine, sine = (each[:, heads.table :] for each in heads.turn or (mixed, mixed))
    int8 = pages.key_scale is not None and pages.value_scale is not None
    _attend_kernel[rows, kv_heads, parts.sums.shape[2]](
        mixed, largest, parts.sums, parts.counters,
        heads.query, heads.key, heads.value, cosine, sine,
        pages.keys, pages.values, pages.key_scale if int8 else largest, pages.value_scale if int8 else largest,
        tables, positions,
        mixed.stride(0), heads.query.stride(0), heads.key.stride(0), heads.value.stride(0), tables.stride(0),
        cosine.stride(0), kv_heads, size, pages.keys.shape[-1],
        heads.turned, weighing.window or _ALL, weighing.scale_of(size), weighing.soft_cap,
        GROUP=group, SIZE=power_of_two(size), TURNED=heads.turned > 0,
        CAPPED=weighing.soft_cap > 0, INT8=int8, BLOCK_TOKENS=BLOCK_TOKENS, PART=PART, STEP=positions_of(group),
        num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip
