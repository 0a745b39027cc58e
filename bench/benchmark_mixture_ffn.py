"""A mixture of experts beside its experts one after the other in plain torch, as models in transformers had them.

    pytest bench/benchmark_mixture_ffn.py

A few tokens read the experts that they take once, so memory is the limit; many are bound by products. Only a GPU runs
the kernels.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.point import Point, Prepare, on_gpu, timed
from moesaic.bench.rounds import DEVICE, Round, rotated
from moesaic.kernels.mixture_ffn import MixtureWeights, mixture_ffn, mixture_ffn_cost

HIDDEN, WIDTH, EXPERTS, ACTIVE = 768, 384, 32, 4
CALLS = 30  # layers
Mixture = Callable[[Tensor, MixtureWeights, Tensor, Tensor], Tensor]  # x, weights, places, parts


def ours(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor) -> Tensor:
    return mixture_ffn(x, weights, places, parts, "silu")


def one_by_one(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for expert in range(EXPERTS):
        row, place = torch.where(places == expert)
        gate, up = (functional.linear(x[row], each[expert]) for each in (weights.gate, weights.up))
        made = functional.linear(functional.silu(gate) * up, weights.down[expert])
        total.index_add_(0, row, made * parts[row, place, None].to(x.dtype))
    return total


def weights_of() -> MixtureWeights:
    """In bf16, which both sides read."""
    shapes = ((EXPERTS, WIDTH, HIDDEN), (EXPERTS, WIDTH, HIDDEN), (EXPERTS, HIDDEN, WIDTH))
    return MixtureWeights(*(torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) / 32 for shape in shapes))


def one_round(mixture: Mixture, tokens: int) -> Round:
    """Layers with experts of their own."""
    x = torch.randn(tokens, HIDDEN, device=DEVICE, dtype=torch.bfloat16)
    places = torch.rand(tokens, EXPERTS, device=DEVICE).topk(ACTIVE).indices.sort().values
    parts = torch.full((tokens, ACTIVE), 1 / ACTIVE, device=DEVICE)

    def layer() -> Callable[[], Tensor]:
        weights = weights_of()
        return lambda: mixture(x, weights, places, parts)

    return rotated(layer, 3 * 2 * EXPERTS * WIDTH * HIDDEN, CALLS)


def points(quick: bool) -> Iterator[Point]:
    """A lone token, a few, and a prompt."""
    for tokens in (1,) if quick else (1, 8, 512):
        read = min(EXPERTS, ACTIVE * tokens)
        rounds: dict[str, Prepare] = {
            "mixture_ffn": on_gpu(partial(one_round, ours, tokens)),
            "torch, expert by expert": partial(one_round, one_by_one, tokens),
        }
        cost = mixture_ffn_cost(ACTIVE * tokens, read, tokens, weights_of())
        yield Point(f"{ACTIVE} of {EXPERTS} experts, {tokens} tokens", cost, rounds)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_mixture_ffn(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
