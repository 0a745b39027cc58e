"""Attention over keys and values in blocks beside torch's over contiguous ones, in the shape of SmolLM2-135M.

    pytest bench/benchmark_paged_attention.py

A lone token reads its past once, so that memory is the limit: contestants walk over the pages of many layers. A chunk
of a prompt is bound by arithmetic. `torch` stores a slice and calls scaled_dot_product_attention with all that can be
prepared before a step, as slots of contiguous keys allow; ratios are the time of a contestant over that of `fp32`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.point import Point
from moesaic.bench.rounds import DEVICE, Round, interleaved, limit, quiet, replayed, versions
from moesaic.evaluate.provenance import device_name
from moesaic.kernels.cost import Cost
from moesaic.kernels.paged_attention import (
    BLOCK_TOKENS,
    KVPages,
    PagedTokens,
    paged_attention,
    paged_attention_cost,
)

HEADS, KV_HEADS, SIZE = 9, 3, 64
LAYERS = 30


@dataclass(frozen=True)
class Case:
    """Sequences alike, each with so many tokens before the new ones."""

    sequences: int
    before: int
    new: int = 1

    @property
    def name(self) -> str:
        return f"{self.sequences} x {self.new} after {self.before}"

    @property
    def end(self) -> int:
        return self.before + self.new

    @property
    def blocks(self) -> int:
        return -(-self.end // BLOCK_TOKENS)


CASES = [Case(rows, end - 1) for rows in (1, 4, 8) for end in (64, 512, 2048)]
CASES += [Case(1, before, 512) for before in (0, 512, 1536)]


@dataclass(frozen=True)
class Contestant:
    """`prepare` makes the call of one layer; `page_bytes` is what it keeps for one value."""

    name: str
    page_bytes: int
    prepare: Callable[[Case], Callable[[], Any]]


def prepare_ours(dtype: torch.dtype, int8: bool = False) -> Callable[[Case], Callable[[], Any]]:
    def prepare(case: Case) -> Callable[[], Any]:
        shape = (case.sequences * case.blocks, KV_HEADS, BLOCK_TOKENS, SIZE)
        if int8:
            kept = [torch.randint(-127, 128, shape, dtype=torch.int8, device=DEVICE) for _ in range(2)]
            pages = KVPages(*kept, *(torch.rand(shape[:3], device=DEVICE) / 64 for _ in range(2)))
        else:
            pages = KVPages(*(torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2)))
        new = [torch.randn(case.sequences * case.new, n, SIZE, device=DEVICE) for n in (HEADS, KV_HEADS, KV_HEADS)]
        query, key, value = (each.to(dtype) for each in new)
        tokens = tokens_of(case)
        return lambda: paged_attention(query, key, value, pages, tokens)

    return prepare


def tokens_of(case: Case) -> PagedTokens:
    """Blocks of all sequences, in any order."""
    tables = torch.randperm(case.sequences * case.blocks).int().view(case.sequences, -1)
    row = torch.arange(case.sequences).repeat_interleave(case.new).int()
    positions = torch.arange(case.before, case.end).repeat(case.sequences).int()
    counts = [case.new] * case.sequences
    return PagedTokens(tables.to(DEVICE), row.to(DEVICE), positions.to(DEVICE), counts, case.end)


def prepare_torch(case: Case) -> Callable[[], Any]:
    """The heads of a group attend as tokens of one head where a sequence has one token."""
    keys, values = (torch.randn(case.sequences, KV_HEADS, case.end, SIZE, device=DEVICE) for _ in range(2))
    query, key, value = (
        torch.randn(case.sequences, n, case.new, SIZE, device=DEVICE) for n in (HEADS, KV_HEADS, KV_HEADS)
    )
    if case.new == 1:
        query = query.view(case.sequences, KV_HEADS, -1, SIZE)
    places = torch.arange(case.end, device=DEVICE)
    mask = places <= places[case.before :].unsqueeze(1) if case.before and case.new > 1 else None
    causal, grouped = not case.before, case.new > 1

    def call() -> Any:
        keys[:, :, case.before :], values[:, :, case.before :] = key, value
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped
        )

    return call


OURS = Contestant("fp32", 4, prepare_ours(torch.float32))
CONTESTANTS = [
    OURS,
    Contestant("bf16", 2, prepare_ours(torch.bfloat16)),
    Contestant("int8", 1, prepare_ours(torch.float32, int8=True)),
    Contestant("torch", 4, prepare_torch),
]


def one_round(contestant: Contestant, case: Case) -> Round:
    """A step through all layers; a chunk of a prompt, which is long, through four."""
    calls = [contestant.prepare(case) for _ in range(LAYERS if case.new == 1 else 4)]

    def run() -> None:
        for call in calls:
            call()

    run()
    return (run if DEVICE == "cpu" else replayed(run)), len(calls)


def row(contestant: Contestant, case: Case, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table. The best round counts, as others were disturbed; medians lie beside it."""
    best, middle = min(seconds[contestant.name]), median(seconds[contestant.name])
    cost = paged_attention_cost(
        case.new, HEADS, KV_HEADS, SIZE, case.before + (case.new + 1) // 2, contestant.page_bytes
    )
    return {
        "contestant": contestant.name,
        "case": case.name,
        "microseconds": best * 1e6,
        "median_microseconds": middle * 1e6,
        "ratio": best / min(seconds[OURS.name]),
        "median_ratio": middle / median(seconds[OURS.name]),
        "limit_microseconds": case.sequences * cost.bytes / limit() * 1e6,  # of memory
        "gigaflops_per_second": case.sequences * cost.flops / best / 1e9,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every contestant in every case, as rows; lone sequences only when `quick`."""
    rows = []
    with quiet():
        for case in CASES:
            if quick and case.sequences > 1:
                continue
            seconds = interleaved({each.name: one_round(each, case) for each in CONTESTANTS})
            rows += [row(each, case, seconds) for each in CONTESTANTS]
    return rows


def points(quick: bool) -> Iterator[Point]:
    """One sequence, several of them, and a chunk of a prompt."""
    cases = (Case(1, 511), Case(8, 511), Case(1, 512, 256))
    for case in cases[:1] if quick else cases:
        one = paged_attention_cost(case.new, HEADS, KV_HEADS, SIZE, case.before + (case.new + 1) // 2, 4)
        cost = Cost(case.sequences * one.bytes, case.sequences * one.flops)
        yield Point(case.name, cost, {each.name: partial(one_round, each, case) for each in (OURS, CONTESTANTS[-1])})


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_paged_attention(benchmark: Any, case: Case, contestant: Contestant) -> None:
    """The table shows rounds over all layers; `extra_info` has the time of one call and the ratio."""
    benchmark.group = case.name
    with quiet():
        runs = {each.name: one_round(each, case) for each in (OURS, contestant)}
        benchmark.pedantic(runs[contestant.name][0], rounds=5)
        benchmark.extra_info.update(row(contestant, case, interleaved(runs)))
