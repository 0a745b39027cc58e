"""Drawing a step's tokens beside what transformers' generate does with the same logits.

    pytest bench/benchmark_sampler.py

Logits are read once; whoever sorts a vocabulary reads it many times. bench/engine/benchmark_sampler.py says what each
way of drawing is of a decode step.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from moesaic.bench.engine.benchmark_sampler import WAYS, drawings, peaked

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.point import Point, timed
from moesaic.bench.rounds import DEVICE, Round
from moesaic.engine.sampler import draw
from moesaic.kernels.cost import Cost

VOCABULARY = 49_152
LOGITS = 8  # sets of logits that calls take in turn
TAKEN = ("greedy", "temperature 1", "top-k 50", "top-p 0.9")
Draw = Callable[[Tensor], object]


def over(make: Callable[[], Draw], rows: int) -> Round:
    """Calls on several sets of logits; a graph holds none of them, as tokens come to the host."""
    logits, call = [peaked(rows, VOCABULARY, seed).to(DEVICE) for seed in range(LOGITS)], make()

    def run() -> None:
        for each in logits:
            call(each)

    run()
    return run, LOGITS


def ours(way: str, rows: int) -> Draw:
    members = drawings(WAYS[way], rows)
    return lambda logits: draw(logits, members)


def theirs(way: str) -> Draw:
    """As transformers has it: a warper, probabilities, and a draw."""
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    if way == "greedy":
        return lambda logits: logits.argmax(-1).tolist()
    warpers: dict[str, Any] = {"top-k 50": TopKLogitsWarper(50), "top-p 0.9": TopPLogitsWarper(0.9)}
    warper = warpers.get(way, lambda ids, logits: logits)
    return lambda logits: torch.multinomial(warper(None, logits).softmax(-1), 1).tolist()


def points(quick: bool) -> Iterator[Point]:
    """The likeliest token, one of all, and one of a cut."""
    for rows in (1,) if quick else (1, 8):
        for way in TAKEN:
            rounds = {
                "draw": partial(over, partial(ours, way, rows), rows),
                "transformers": partial(over, partial(theirs, way), rows),
            }
            cost = Cost(4 * rows * VOCABULARY, rows * VOCABULARY)
            yield Point(f"{way} of {VOCABULARY:,}, {rows} rows", cost, rounds)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_sampler(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
