"""The int8 linear beside what else multiplies by such weights, in the shapes of SmolLM2-135M.

    pytest bench/benchmark_int8_linear.py

Decode reads every weight once per step, so the limit is memory bandwidth: each contestant walks over copies of its
weights that together exceed the last cache, and the bandwidth of a plain read is measured beside it. A ratio above
one says how many times longer the contestant took than `int8_linear` on the same activations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import pytest
import torch
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.figure import ratio_of_rounds
from moesaic.bench.rounds import CANNOT_RUN, DEVICE, Round, interleaved, limit, quiet, replayed, versions
from moesaic.evaluate.provenance import device_name
from moesaic.kernels.digit_linear import digit_linear, pack_digits
from moesaic.kernels.int8_linear import int8_linear, int8_linear_cost

SHAPES = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)]  # outputs, inputs
TOKENS = (1, 8, 128)
ROTATED_BYTES = 100_000_000  # of weights, about three times the last cache

Call = Callable[[torch.Tensor], torch.Tensor]


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


def prepare_dense(dtype: torch.dtype) -> Callable[[torch.Tensor, torch.Tensor], Call]:
    def prepare(weight: torch.Tensor, scale: torch.Tensor) -> Call:
        dense = (weight * scale[:, None]).to(dtype)
        return lambda x: functional.linear(x, dense)

    return prepare


def prepare_int8pack(weight: torch.Tensor, scale: torch.Tensor) -> Call:
    narrow = scale.bfloat16()
    return lambda x: torch._weight_int8pack_mm(x, weight, narrow)


def prepare_dynamic(weight: torch.Tensor, scale: torch.Tensor) -> Call:
    """Quantizes activations, too: another function, with a larger error."""
    outputs, inputs = weight.shape
    zeros = torch.zeros(outputs, dtype=torch.int64)
    linear = import_module("torch.ao.nn.quantized.dynamic").Linear(inputs, outputs, bias_=False)
    dense = weight * scale[:, None]
    linear.set_weight_bias(torch.quantize_per_channel(dense, scale.double(), zeros, 0, torch.qint8), None)
    return lambda x: linear(x)


def prepare_bitsandbytes(weight: torch.Tensor, scale: torch.Tensor) -> Call:
    outputs, inputs = weight.shape
    linear = import_module("bitsandbytes.nn").Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
    linear.load_state_dict({"weight": weight * scale[:, None]})
    linear = linear.to(weight.device)
    return lambda x: linear(x)


CONTESTANTS = [
    Contestant("int8_linear fp32", torch.float32, 1, prepare_ours),
    Contestant("int8_linear bf16", torch.bfloat16, 1, prepare_ours),
    Contestant("digit_linear fp32", torch.float32, 1, prepare_digits),
    Contestant("torch linear fp32", torch.float32, 4, prepare_dense(torch.float32)),
    Contestant("torch linear bf16", torch.bfloat16, 2, prepare_dense(torch.bfloat16)),
    Contestant("torch int8pack bf16", torch.bfloat16, 1, prepare_int8pack),
    Contestant("torch dynamic int8 fp32", torch.float32, 1, prepare_dynamic),
    Contestant("bitsandbytes int8 bf16", torch.bfloat16, 1, prepare_bitsandbytes),
]
OURS = {contestant.dtype: contestant for contestant in CONTESTANTS[:2]}
PEERS = CONTESTANTS[2:]


def one_round(contestant: Contestant, outputs: int, inputs: int, tokens: int) -> Round:
    """Weights, activations and a first call, which compiles whatever there is to compile."""
    copies = max(2, math.ceil(ROTATED_BYTES / (outputs * inputs * contestant.weight_bytes)))
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
