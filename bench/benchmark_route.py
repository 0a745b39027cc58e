"""The router of an FFN in experts beside the same two products in plain torch, in the shape of SmolLM2-135M.

    pytest bench/benchmark_route.py

A router is small beside its FFN, and stays in a cache: calls are the limit, then its bytes. The perceptron with ReLU is
what MoEfication has (Zhang et al. 2022), and what a user would write.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.point import Point, timed
from moesaic.bench.rounds import DEVICE, Round, rotated
from moesaic.kernels.route import route_cost, route_scores, route_scores_torch

HIDDEN, WIDTH, EXPERTS = 576, 64, 96
CALLS = 30  # layers
Router = Callable[[Tensor, Tensor, Tensor], Tensor]  # x, first, second


def perceptron(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return functional.linear(functional.linear(x, first).relu(), second)


CONTESTANTS: dict[str, Router] = {
    "route_scores": route_scores,
    "torch perceptron, ReLU": perceptron,
    "torch, squareplus": route_scores_torch,
}


def one_round(router: Router, tokens: int) -> Round:
    """Layers with routers of their own."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, HIDDEN, generator=random).to(DEVICE)

    def layer() -> Callable[[], Tensor]:
        first, second = (torch.randn(size, generator=random).to(DEVICE) for size in ((WIDTH, HIDDEN), (EXPERTS, WIDTH)))
        return lambda: router(x, first, second)

    return rotated(layer, float("inf"), CALLS)


def points(quick: bool) -> Iterator[Point]:
    """A lone token and eight."""
    for tokens in (1,) if quick else (1, 8):
        rounds = {name: partial(one_round, router, tokens) for name, router in CONTESTANTS.items()}
        yield Point(f"{HIDDEN} to {EXPERTS}, {tokens} tokens", route_cost(tokens, HIDDEN, WIDTH, EXPERTS, 4), rounds)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_route(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
