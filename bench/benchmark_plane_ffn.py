"""The bit-plane FFN beside the dense one of the same int8 weights, at the shares of bytes that tiers read.

    pytest bench/benchmark_plane_ffn.py

A lone token reads its weights once, so the limit is memory bandwidth. Contestants walk over copies of the weights
(layers) that together exceed the last cache several times. `ratio` is the time of a contestant over that of the dense
int8 FFN of `int8_linear` in the same round: below one it is faster, and `share` is what it cannot pass where memory is
the limit. Layers that are small have another limit: calls, and instructions for each neuron.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moesaic.bench.ops.point import Point
from moesaic.bench.rounds import DEVICE, Round, copies_of, interleaved, limit, quiet, replayed, versions

# Absolute, since pytest imports this file outside the package.
from moesaic.compress.moefy.budget import EVERYTHING, PlaneScores, thresholds_for
from moesaic.evaluate.provenance import device_name
from moesaic.kernels.cost import Cost
from moesaic.kernels.int8_linear import int8_linear
from moesaic.kernels.plane_ffn import (
    PlaneWeights,
    packed_weights,
    plane_ffn,
    plane_ffn_torch,
    plane_scores,
)
from moesaic.kernels.planes.bytes import FFNShape
from moesaic.kernels.planes.choice import NeuronScores
from moesaic.kernels.planes.coarse import CoarseFit

TOKENS = (1, 8)
THREADS = 1  # a second thread that others interrupt keeps the first one waiting


@dataclass(frozen=True)
class Case:
    """An FFN, and the share of its int8 bytes that a token reads."""

    hidden: int
    width: int
    gated: bool
    bits: int
    refined_bits: int
    share: float

    @property
    def name(self) -> str:
        kind = "SwiGLU" if self.gated else "ReLU"
        return f"{self.hidden}x{self.width} {kind}, {self.bits} bits, then {self.refined_bits}, {self.share:.2f}"

    @property
    def activation(self) -> str:
        return "silu" if self.gated else "relu"

    @property
    def weights(self) -> int:
        return self.hidden * self.width * (3 if self.gated else 2)


CASES = [
    Case(576, 1536, True, 4, 6, 0.55),  # SmolLM2-135M
    Case(576, 1536, True, 4, 8, 1.0),
    Case(192, 1536, False, 1, 4, 0.2),
    Case(256, 2048, False, 1, 4, 0.2),
    Case(2048, 8192, False, 1, 4, 0.2),  # OPT-1.3B
]
Call = Callable[[Tensor, Tensor], Any]  # x, thresholds


@dataclass(frozen=True)
class Contestant:
    """`prepare` makes a call of weights; `dense` ones ignore thresholds."""

    name: str
    dtype: torch.dtype
    weight_bytes: int
    prepare: Callable[[PlaneWeights, Case], Call]
    dense: bool = True


def prepare_ours(weights: PlaneWeights, case: Case) -> Call:
    packed = packed_weights(copied(weights), case.bits)
    return lambda x, thresholds: plane_ffn(x, packed, thresholds, case.bits, case.activation)


def prepare_reference(weights: PlaneWeights, case: Case) -> Call:
    own = copied(weights)
    return lambda x, thresholds: plane_ffn_torch(x, own, thresholds, case.bits, case.activation)


def prepare_int8(weights: PlaneWeights, case: Case) -> Call:
    first, scale, down = *joined(weights), weights.down.clone()

    def call(x: Tensor, thresholds: Tensor) -> Tensor:
        return int8_linear(activated(int8_linear(x, first, scale), case), down, weights.down_scale)

    return call


def prepare_torch(dtype: torch.dtype) -> Callable[[PlaneWeights, Case], Call]:
    def prepare(weights: PlaneWeights, case: Case) -> Call:
        integers, scale = joined(weights)
        first, down = (integers * scale[:, None]).to(dtype), (weights.down * weights.down_scale[:, None]).to(dtype)
        return lambda x, thresholds: functional.linear(activated(functional.linear(x, first), case), down)

    return prepare


def activated(up: Tensor, case: Case) -> Tensor:
    if not case.gated:
        return up.relu()
    gate, value = up.chunk(2, dim=-1)
    return functional.silu(gate) * value


def joined(weights: PlaneWeights) -> tuple[Tensor, Tensor]:
    """gate over up, and their scales, as models pack them."""
    if weights.gate is None or weights.gate_scale is None:
        return weights.up.clone(), weights.up_scale
    return torch.cat([weights.gate, weights.up]), torch.cat([weights.gate_scale, weights.up_scale])


def copied(weights: PlaneWeights) -> PlaneWeights:
    matrices = {name: getattr(weights, name) for name in ("up", "gate", "down")}
    return replace(weights, **{name: value.clone() for name, value in matrices.items() if value is not None})


DENSE = Contestant("dense int8", torch.float32, 1, prepare_int8)
CONTESTANTS = [
    Contestant("plane_ffn", torch.float32, 1, prepare_ours, dense=False),
    Contestant("plane_ffn_torch", torch.float32, 1, prepare_reference, dense=False),
    DENSE,
    Contestant("torch bf16", torch.bfloat16, 2, prepare_torch(torch.bfloat16)),
    Contestant("torch fp32", torch.float32, 4, prepare_torch(torch.float32)),
]


def random_weights(case: Case, random: torch.Generator) -> PlaneWeights:
    hidden, width = case.hidden, case.width

    def matrix(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=random) * 32).round().clamp(-127, 127).to(torch.int8).to(DEVICE)

    def scale(length: int) -> Tensor:
        return torch.full((length,), hidden**-0.5 / 32, device=DEVICE)

    gate = (matrix(width, hidden), scale(width)) if case.gated else (None, None)
    down, down_scale = matrix(hidden, width), scale(hidden)
    norm = (down * down_scale[:, None]).norm(dim=0)
    rows = 2 if case.gated else 1
    error = torch.full(
        (rows, width), 2 ** (8 - case.bits) / 12**0.5 / 32, device=DEVICE
    )  # of rounding to the high bits
    scales = torch.stack([scale(width)] * rows)
    fit = CoarseFit(*(each.bfloat16() for each in (scales, torch.zeros_like(scales), error, norm)))
    return PlaneWeights(
        matrix(width, hidden), down, scale(width), down_scale, fit, gate[0], gate[1], refined_bits=case.refined_bits
    )


def thresholds_of(scores: NeuronScores, case: Case) -> Tensor:
    """Thresholds [tokens, 2] at which each token reads the case's share."""
    rows = []
    for token in zip(*scores, strict=True):
        seen = PlaneScores.unseen(FFNShape(case.hidden, case.width, case.gated), case.bits, case.refined_bits)
        seen.add(NeuronScores(*token))
        rows.append(seen.thresholds(thresholds_for([seen], case.share, "global")[0] if case.share < 1 else EVERYTHING))
    return torch.stack(rows).to(DEVICE)


def one_round(contestant: Contestant, case: Case, tokens: int) -> Round:
    """Layers, activations with the thresholds that give the case's shares, and a first call."""
    random = torch.Generator().manual_seed(0)
    weights, calls = random_weights(case, random), []
    layer = case.weights * contestant.weight_bytes
    read = layer if contestant.dense else layer * case.share
    for _ in range(copies_of(layer, read)):
        calls.append(contestant.prepare(weights, case))
    inputs, turn = [], 0
    for _ in range(17):  # a prime
        x = torch.randn(tokens, case.hidden, generator=random).to(DEVICE)
        scores = plane_scores(x, weights, case.bits, case.activation)
        inputs.append((x.to(contestant.dtype), thresholds_of(scores, case)))

    def run() -> None:
        nonlocal turn
        for call in calls:
            call(*inputs[turn])
            turn = (turn + 1) % len(inputs)

    run()
    return (run if DEVICE == "cpu" else replayed(run)), len(calls)


def row(contestant: Contestant, case: Case, tokens: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table. The best round counts, as others were disturbed; the ratio of medians lies beside it."""
    share = 1.0 if contestant.dense else case.share
    best, moved = min(seconds[contestant.name]), case.weights * contestant.weight_bytes * share
    return {
        "contestant": contestant.name,
        "case": case.name,
        "tokens": tokens,
        "share": share,
        "microseconds": best * 1e6,
        "ratio": best / min(seconds[DENSE.name]),
        "median_ratio": median(seconds[contestant.name]) / median(seconds[DENSE.name]),
        "limit_microseconds": moved / limit() * 1e6,  # of a lone token
        "limit_gigabytes_per_second": limit() / 1e9,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every contestant in every case, as rows; one token only when `quick`."""
    rows = []
    with quiet(THREADS):
        for case in CASES:
            for tokens in TOKENS[:1] if quick else TOKENS:
                seconds = interleaved({each.name: one_round(each, case, tokens) for each in CONTESTANTS})
                rows += [row(each, case, tokens, seconds) for each in CONTESTANTS]
    return rows


def points(quick: bool) -> Iterator[Point]:
    """A gated layer, and one whose neurons are mostly silent."""
    contestants = [each for each in CONTESTANTS if each.prepare is not prepare_reference]
    for case in CASES[:1] if quick else (CASES[0], CASES[2]):
        cost = Cost(round(case.weights * case.share), round(2 * case.weights * case.share))
        yield Point(
            f"{case.name}, 1 token", cost, {each.name: partial(one_round, each, case, 1) for each in contestants}
        )


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name.replace(" ", "-"))
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_plane_ffn(benchmark: Any, case: Case, tokens: int, contestant: Contestant) -> None:
    """The table shows rounds over all layers; `extra_info` has the time of one call and the ratio."""
    benchmark.group = f"{case.name}, {tokens} tokens"
    with quiet(THREADS):
        runs = {each.name: one_round(each, case, tokens) for each in (DENSE, contestant)}
        benchmark.pedantic(runs[contestant.name][0], rounds=5)
        benchmark.extra_info.update(row(contestant, case, tokens, interleaved(runs)))
