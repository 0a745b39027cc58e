"""The FFN in experts beside torch's dense one, at several active shares.

    pytest bench/benchmark_expert_ffn.py

A lone token reads its experts' weights once, so the limit is memory bandwidth and a share f can be 1/f times as fast
as the dense FFN. Contestants walk over copies of the weights (layers) that together exceed the last cache many times,
and each call has experts of its own, drawn anew. `speedup` is how many times longer torch's dense fp32 FFN took in
the same round; `of_limit` is that times the share.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.point import Point
from moesaic.bench.rounds import DEVICE, Round, copies_of, interleaved, limit, quiet, replayed, versions
from moesaic.evaluate.provenance import device_name
from moesaic.kernels.expert_ffn import ExpertWeights, expert_ffn, expert_ffn_cost

SHAPES = [(2048, 8192, 64), (768, 3072, 64)]  # hidden, width, expert size: OPT-1.3B and GPT-2 small
TOKENS = (1, 8, 128)
SHARES = (1 / 2, 1 / 4, 1 / 8)
ACTIVATION = "relu"
THREADS = 1  # a second thread that others interrupt keeps the first one waiting

Call = Callable[[Tensor, Tensor], Tensor]  # x, active


@dataclass(frozen=True)
class Contestant:
    """`prepare` makes a call of up and down [width, hidden] in fp32; `dense` ones ignore who is active."""

    name: str
    dtype: torch.dtype
    weights: torch.dtype
    prepare: Callable[[Tensor, Tensor, int], Call]
    dense: bool = False
    waits: bool = False  # for the device in the middle of a call, so that no graph can hold it


def prepare_ours(weights: torch.dtype) -> Callable[[Tensor, Tensor, int], Call]:
    def prepare(up: Tensor, down: Tensor, expert_size: int) -> Call:
        if weights != torch.int8:
            layer = ExpertWeights(up.to(weights), down.to(weights))
        else:
            integers, scales = zip(*(int8_rows(up), int8_rows(down.T)), strict=True)
            layer = ExpertWeights(integers[0], integers[1].T.contiguous(), up_scale=scales[0], down_scale=scales[1])
        return lambda x, active: expert_ffn(x, layer, active, expert_size, ACTIVATION)

    return prepare


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as int8 and their scales."""
    scale = weight.abs().amax(1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def prepare_dense(dtype: torch.dtype) -> Callable[[Tensor, Tensor, int], Call]:
    def prepare(up: Tensor, down: Tensor, expert_size: int) -> Call:
        first, second = up.to(dtype), down.T.contiguous().to(dtype)
        return lambda x, active: functional.linear(functional.linear(x, first).relu(), second)

    return prepare


def prepare_loop(up: Tensor, down: Tensor, expert_size: int) -> Call:
    """What plain torch offers: an expert after the other, for the tokens that use it."""
    experts = list(zip(torch.split(up, expert_size), torch.split(down, expert_size), strict=True))

    def call(x: Tensor, active: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for expert in active.any(0).nonzero()[:, 0].tolist():
            rows, (first, second) = active[:, expert].nonzero()[:, 0], experts[expert]
            y.index_add_(0, rows, (x[rows] @ first.T).relu() @ second)
        return y

    return call


FP32, BF16, INT8 = torch.float32, torch.bfloat16, torch.int8
DENSE = Contestant("torch dense fp32", FP32, FP32, prepare_dense(FP32), dense=True)
CONTESTANTS = [
    Contestant("expert_ffn fp32", FP32, FP32, prepare_ours(FP32)),
    Contestant("expert_ffn fp32, bf16 weights", FP32, BF16, prepare_ours(BF16)),
    Contestant("expert_ffn fp32, int8 weights", FP32, INT8, prepare_ours(INT8)),
    DENSE,
    Contestant("torch dense bf16", BF16, BF16, prepare_dense(BF16), dense=True),
    Contestant("torch loop over experts fp32", FP32, FP32, prepare_loop, waits=True),
]


def one_round(contestant: Contestant, shape: tuple[int, int, int], tokens: int, share: float) -> Round:
    """Layers, activations, experts for every call, and a first call, which compiles whatever there is to compile."""
    hidden, width, expert_size = shape
    layer = 2 * width * hidden * contestant.weights.itemsize
    read = layer * (1 if contestant.dense else share)
    random = torch.Generator().manual_seed(0)
    calls = []
    for _ in range(copies_of(layer, read)):
        up, down = (torch.randn(width, hidden, generator=random).mul_(hidden**-0.5).to(DEVICE) for _ in range(2))
        calls.append(contestant.prepare(up, down, expert_size))
    experts = width // expert_size
    drawn = [torch.rand(tokens, experts, generator=random).argsort(1) < experts * share for _ in range(61)]  # a prime
    active, turn = [mask.to(DEVICE) for mask in drawn], 0
    x = torch.randn(tokens, hidden, generator=random).to(DEVICE, contestant.dtype)

    def run() -> None:
        nonlocal turn
        for call in calls:
            call(x, active[turn])
            turn = (turn + 1) % len(active)

    run()
    return (run if DEVICE == "cpu" or contestant.waits else replayed(run)), len(calls)


def row(
    contestant: Contestant, shape: tuple[int, int, int], tokens: int, share: float, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """One line of the table. The best round counts, as others were disturbed; the median lies beside it."""
    hidden, width, expert_size = shape
    used = 1.0 if contestant.dense else share
    union = math.ceil(width // expert_size * (1 - (1 - used) ** tokens))  # expected, as experts are drawn at random
    moved = expert_ffn_cost(tokens, union, 0, expert_size, hidden, 2, contestant.weights.itemsize).bytes
    best, speedup = min(seconds[contestant.name]), min(seconds[DENSE.name]) / min(seconds[contestant.name])
    return {
        "contestant": contestant.name,
        "hidden": hidden,
        "width": width,
        "expert_size": expert_size,
        "tokens": tokens,
        "share": share,
        "microseconds": best * 1e6,
        "median_microseconds": median(seconds[contestant.name]) * 1e6,
        "gigabytes_per_second": moved / best / 1e9,
        "limit_gigabytes_per_second": limit() / 1e9,
        "speedup": speedup,
        "of_limit": speedup * used,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every contestant at every share, as rows; fewer shapes when `quick`. What cannot run says why in `skipped`."""
    shapes, tokens_list = (SHAPES[:1], TOKENS[:1]) if quick else (SHAPES, TOKENS)
    with quiet(THREADS):
        points = [(shape, tokens, share) for shape in shapes for tokens in tokens_list for share in SHARES]
        rows = [row for point in points for row in measure_point(*point)]
    return rows


def measure_point(shape: tuple[int, int, int], tokens: int, share: float) -> list[dict[str, Any]]:
    """All contestants in one shape, in turns."""
    seconds = interleaved({each.name: one_round(each, shape, tokens, share) for each in CONTESTANTS})
    return [row(each, shape, tokens, share, seconds) for each in CONTESTANTS]


def points(quick: bool) -> Iterator[Point]:
    """A quarter of the experts of GPT-2 small's FFN, beside all of it and a loop over them."""
    shape, share = SHAPES[1], 1 / 4
    hidden, width, size = shape
    chosen = [CONTESTANTS[0], DENSE, *CONTESTANTS[4:]]
    for tokens in (1,) if quick else (1, 8):
        union = math.ceil(width // size * (1 - (1 - share) ** tokens))
        pairs = round(tokens * share * width / size)
        cost = expert_ffn_cost(tokens, union, pairs, size, hidden, 2, 4)
        rounds = {each.name: partial(one_round, each, shape, tokens, share) for each in chosen}
        yield Point(f"{hidden}x{width} in {size}, {share:g}, {tokens} tokens", cost, rounds)


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name.replace(" ", "-"))
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_expert_ffn(
    benchmark: Any, shape: tuple[int, int, int], tokens: int, share: float, contestant: Contestant
) -> None:
    """The table shows rounds over all layers; `extra_info` has the time of one call and the speedup."""
    benchmark.group = f"{shape[0]}x{shape[1]}, {tokens} tokens, share {share}"
    with quiet(THREADS):
        runs = {c.name: one_round(c, shape, tokens, share) for c in (DENSE, contestant)}
        benchmark.pedantic(runs[contestant.name][0], rounds=5)
        benchmark.extra_info.update(row(contestant, shape, tokens, share, interleaved(runs)))
