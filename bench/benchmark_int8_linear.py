"""The int8 linear beside what else multiplies by such weights, in the shapes of SmolLM2-135M.

    pytest bench/benchmark_int8_linear.py

Decode reads every weight once per step, so the limit is memory bandwidth: each contestant walks over copies of its
weights that together exceed the last cache, and the bandwidth of a plain read is measured beside it. A ratio above
one says how many times longer the contestant took than `int8_linear` on the same activations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.figure import ratio_of_rounds
from moesaic.bench.ops.linears import SHAPES as LAYER_AND_HEAD
from moesaic.bench.ops.linears import (
    Call,
    bitsandbytes_int8,
    linear_points,
    torch_dynamic_int8,
    torch_int8pack,
    torch_linear,
)
from moesaic.bench.ops.point import Point
from moesaic.bench.rounds import CANNOT_RUN, DEVICE, Round, copies_of, interleaved, limit, quiet, replayed, versions
from moesaic.evaluate.provenance import device_name
from moesaic.kernels.digit_linear import digit_linear, pack_digits
from moesaic.kernels.int8_linear import int8_linear, int8_linear_cost

SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)]  # outputs, inputs
TOKENS = (1, 8, 128)


@dataclass(frozen=True)
class Contestant:
    """`prepare` turns int8 weights and scales into a call; `weight_bytes` is what it keeps for one weight."""

    name: str
    dtype: torch.dtype
    weight_bytes: int
    prepare: Callable[[torch.Tensor, torch.Tensor], Call]


def prepare_ours(weight: torch.Tensor, scale: torch.Tensor) -> Call:
    return lambda x: int8_linear(x, weight, scale)


def prepare_digits(weight: torch.Tensor, scale: torch.Tensor) -> Call:
    """Activations in two digits of int8, whose sums are exact."""
    packed = pack_digits(weight, scale)
    return lambda x: digit_linear(x, packed)


CONTESTANTS = [
    Contestant("int8_linear fp32", torch.float32, 1, prepare_ours),
    Contestant("int8_linear bf16", torch.bfloat16, 1, prepare_ours),
    Contestant("digit_linear fp32", torch.float32, 1, prepare_digits),
    Contestant("torch linear fp32", torch.float32, 4, torch_linear(torch.float32)),
    Contestant("torch linear bf16", torch.bfloat16, 2, torch_linear(torch.bfloat16)),
    Contestant("torch int8pack bf16", torch.bfloat16, 1, torch_int8pack),
    Contestant("torch dynamic int8 fp32", torch.float32, 1, torch_dynamic_int8),
    Contestant("bitsandbytes int8 bf16", torch.bfloat16, 1, bitsandbytes_int8),
]
OURS = {contestant.dtype: contestant for contestant in CONTESTANTS[:2]}
PEERS = CONTESTANTS[2:]


def one_round(contestant: Contestant, outputs: int, inputs: int, tokens: int) -> Round:
    """Weights, activations and a first call, which compiles whatever there is to compile."""
    copies = copies_of(outputs * inputs * contestant.weight_bytes)
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=random, dtype=torch.int8).to(DEVICE)
    scale = (torch.rand(outputs, generator=random) / 127).to(DEVICE)
    calls = [contestant.prepare(weight.clone(), scale) for _ in range(copies)]
    x = torch.randn(tokens, inputs, generator=random).to(DEVICE, contestant.dtype)

    def run() -> None:
        for call in calls:
            call(x)

    run()
    return (run if DEVICE == "cpu" else replayed(run)), copies


def row(contestant: Contestant, shape: tuple[int, int], tokens: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """One line of the table. The best round counts, as others were disturbed; the median lies beside it."""
    outputs, inputs = shape
    best, ours = min(seconds[contestant.name]), min(seconds[OURS[contestant.dtype].name])
    moved = int8_linear_cost(tokens, inputs, outputs, contestant.dtype.itemsize).bytes
    moved += (contestant.weight_bytes - 1) * outputs * inputs
    beside = ratio_of_rounds(seconds[OURS[contestant.dtype].name], seconds[contestant.name])
    return {
        "name": f"{contestant.name} {outputs}x{inputs}, {tokens} tokens",
        "ours_beside_it": beside.as_json(),
        "contestant": contestant.name,
        "outputs": outputs,
        "inputs": inputs,
        "tokens": tokens,
        "microseconds": best * 1e6,
        "median_microseconds": median(seconds[contestant.name]) * 1e6,
        "gigabytes_per_second": moved / best / 1e9,
        "limit_gigabytes_per_second": limit() / 1e9,
        "ratio": best / ours,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Every contestant in every shape, as rows; fewer shapes when `quick`. What cannot run says why in `skipped`."""
    shapes, tokens_list = ([SHAPES[2], SHAPES[4]], TOKENS[:2]) if quick else (SHAPES, TOKENS)
    rows: list[dict[str, Any]] = []
    with quiet():
        for shape in shapes:
            for tokens in tokens_list:
                rows += measure_shape(shape, tokens)
    return rows


def measure_shape(shape: tuple[int, int], tokens: int) -> list[dict[str, Any]]:
    """All contestants in one shape, in turns."""
    runs, skipped = {each.name: one_round(each, *shape, tokens) for each in OURS.values()}, []
    for contestant in PEERS:
        try:
            runs[contestant.name] = one_round(contestant, *shape, tokens)
        except CANNOT_RUN as error:
            skipped.append({"contestant": contestant.name, "skipped": str(error).splitlines()[0]})
    seconds = interleaved(runs)
    return [row(c, shape, tokens, seconds) for c in CONTESTANTS if c.name in runs] + skipped


def points(quick: bool) -> Iterator[Point]:
    """A layer's matrix and the head, alone and with others."""
    ours = {"int8_linear": (prepare_ours, torch.float32, 1)}
    cost = partial(int8_linear_cost, activation_bytes=4)
    return linear_points(ours, cost, LAYER_AND_HEAD[:1] if quick else LAYER_AND_HEAD)


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name.replace(" ", "-"))
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_int8_linear(benchmark: Any, shape: tuple[int, int], tokens: int, contestant: Contestant) -> None:
    """The table shows rounds over all copies; `extra_info` has the time of one call and the ratio."""
    benchmark.group = f"{shape[0]}x{shape[1]}, {tokens} tokens"
    ours = OURS[contestant.dtype]
    with quiet():
        runs = {ours.name: one_round(ours, *shape, tokens)}
        try:
            runs[contestant.name] = runs.get(contestant.name) or one_round(contestant, *shape, tokens)
        except CANNOT_RUN as error:
            pytest.skip(f"{contestant.name} cannot run here: {error}")
        benchmark.pedantic(runs[contestant.name][0], rounds=5)
        benchmark.extra_info.update(row(contestant, shape, tokens, interleaved(runs)))
