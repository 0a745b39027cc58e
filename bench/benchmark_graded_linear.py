"""The graded linear beside the int8 linear of the same weights, at the shares of bytes that tiers read.

    pytest bench/benchmark_graded_linear.py

Contestants walk over copies of the weights that together exceed the last cache several times, as the layers of a model
do. `ratio` is the time of a contestant over that of `int8_linear` in the same round, `limit_microseconds` what a lone
token's bytes take at the speed of a plain read. `instructions_per_weight` is the written count of
bench/cost/processor.py for the bits that are read: where it binds, bytes that are left unread save nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moesaic.bench.cost.processor import instructions_per_weight
from moesaic.bench.ops.point import Point
from moesaic.bench.rounds import DEVICE, Round, copies_of, interleaved, limit, quiet, replayed, versions

# Absolute, since pytest imports this file outside the package.
from moesaic.evaluate.provenance import device_name
from moesaic.kernels.cost import Cost
from moesaic.kernels.graded.bytes import PLANES, GradedShape, graded_linear_bytes, int8_linear_bytes, level_bits
from moesaic.kernels.graded.layout import pack_graded
from moesaic.kernels.graded.worth import worth_of
from moesaic.kernels.graded_linear import GradedWeights, graded_levels, graded_linear
from moesaic.kernels.int8_linear import int8_linear
from moesaic.kernels.native import native
from moesaic.kernels.planes.native import plane_isa

TOKENS = (1, 4, 8)
SHARES = (1.0, 0.75, 0.55, 0.5)  # of the bits of the weights
THREADS = 1  # a second thread that others interrupt keeps the first one waiting
_HALVINGS = 40


@dataclass(frozen=True)
class Case:
    """A matrix of SmolLM2-135M, rows that share an input stacked, and the share of its bits that each token reads."""

    what: str
    outputs: int
    inputs: int
    share: float

    @property
    def name(self) -> str:
        return f"{self.what} {self.outputs}x{self.inputs}, {self.share:.2f}"

    @property
    def shape(self) -> GradedShape:
        return GradedShape(self.inputs, self.outputs)


MATRICES = [("query, key, value", 960, 576), ("output", 576, 576), ("gate, up", 3072, 576), ("down", 576, 1536)]
CASES = [Case(*matrix, share) for matrix in MATRICES for share in SHARES]
Call = Callable[[Tensor, Tensor], Any]  # x, thresholds


def prepare_ours(weight: Tensor, scale: Tensor, worth: Tensor) -> Call:
    weights = GradedWeights(pack_graded(weight), scale, worth)
    return lambda x, thresholds: graded_linear(x, weights, thresholds)


def prepare_int8(weight: Tensor, scale: Tensor, worth: Tensor) -> Call:
    own = weight.clone()
    return lambda x, thresholds: int8_linear(x, own, scale)


def prepare_torch(weight: Tensor, scale: Tensor, worth: Tensor) -> Call:
    dense = (weight * scale[:, None]).bfloat16()
    return lambda x, thresholds: functional.linear(x.bfloat16(), dense)


DENSE, OURS, TORCH = "int8_linear", "graded_linear", "torch linear bf16"
CONTESTANTS = {DENSE: prepare_int8, OURS: prepare_ours}


def thresholds_of(x: Tensor, worth: Tensor, share: float) -> Tensor:
    """fp32 [tokens], at which each token reads this share of the bits."""
    return torch.stack([_threshold(token.unsqueeze(0), worth, share) for token in x])


def _threshold(token: Tensor, worth: Tensor, share: float) -> Tensor:
    if share == 1.0:
        return torch.zeros((), device=token.device)
    bits = torch.tensor(level_bits(PLANES), device=token.device)
    low, high = -40.0, 40.0  # powers of two
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        read = bits[graded_levels(token, worth, torch.full((1,), 2.0**middle, device=token.device))]
        low, high = (middle, high) if read.float().mean() / 8 > share else (low, middle)
    return torch.tensor(2.0**high, device=token.device)


def one_round(contestant: str, case: Case, tokens: int) -> Round:
    """Layers, activations with the thresholds that give the case's share, and a first call."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(case.outputs, case.inputs, generator=random).mul(32).round().clamp(-127, 127)
    weight = weight.to(torch.int8).to(DEVICE)
    scale = torch.full((case.outputs,), case.inputs**-0.5 / 32, device=DEVICE)
    worth = worth_of(weight, scale, 1.0)
    prepare = prepare_torch if contestant == TORCH else CONTESTANTS[contestant]
    calls = [prepare(weight, scale, worth) for _ in range(copies_of(weight.numel()))]
    inputs = []
    for _ in range(7):  # a prime
        x = torch.randn(tokens, case.inputs, generator=random).to(DEVICE)
        inputs.append((x, thresholds_of(x, worth, case.share)))
    turn = 0

    def run() -> None:
        nonlocal turn
        for call in calls:
            call(*inputs[turn])
            turn = (turn + 1) % len(inputs)

    run()
    return (run if DEVICE == "cpu" else replayed(run)), len(calls)


def row(contestant: str, case: Case, tokens: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table. The best round counts, as others were disturbed; the ratio of medians lies beside it."""
    ours = contestant == OURS
    bits = case.share * 8 * case.inputs
    moved = graded_linear_bytes(case.shape, bits) if ours else int8_linear_bytes(case.shape)
    library, best = native() if DEVICE == "cpu" else None, min(seconds[contestant])
    return {
        "contestant": contestant,
        "case": case.name,
        "tokens": tokens,
        "share": case.share if ours else 1.0,
        "bytes": moved,
        "microseconds": best * 1e6,
        "ratio": best / min(seconds[DENSE]),
        "median_ratio": median(seconds[contestant]) / median(seconds[DENSE]),
        "limit_microseconds": moved / limit() * 1e6,  # of a lone token
        "limit_gigabytes_per_second": limit() / 1e9,
        "instructions_per_weight": instructions_per_weight(plane_isa(library)) if ours and library else None,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Both contestants in every case, as rows; one token only when `quick`."""
    points = [(case, tokens) for case in CASES for tokens in (TOKENS[:1] if quick else TOKENS)]
    with quiet(THREADS):
        return [each for point in points for each in measure_point(*point)]


def measure_point(case: Case, tokens: int) -> list[dict[str, Any]]:
    """Both contestants in one case, in turns."""
    seconds = interleaved({each: one_round(each, case, tokens) for each in CONTESTANTS})
    return [row(each, case, tokens, seconds) for each in CONTESTANTS]


def points(quick: bool) -> Iterator[Point]:
    """Gate and up at a tier and whole, alone and with others."""
    wanted = ((0.55, 1), (1.0, 1), (0.55, 8))
    for share, tokens in wanted[:1] if quick else wanted:
        case = Case("gate, up", 3072, 576, share)
        moved = round(graded_linear_bytes(case.shape, share * 8 * case.inputs))
        cost = Cost(moved, 2 * tokens * case.outputs * case.inputs)
        rounds = {name: partial(one_round, name, case, tokens) for name in (OURS, DENSE, TORCH)}
        yield Point(f"{case.name}, {tokens} tokens", cost, rounds)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_graded_linear(benchmark: Any, case: Case, tokens: int) -> None:
    """The table shows rounds over all layers; `extra_info` has the time of one call and the ratio."""
    benchmark.group = f"{case.name}, {tokens} tokens"
    with quiet(THREADS):
        runs = {each: one_round(each, case, tokens) for each in CONTESTANTS}
        benchmark.pedantic(runs[OURS][0], rounds=5)
        benchmark.extra_info.update(row(OURS, case, tokens, interleaved(runs)))
