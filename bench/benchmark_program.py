"""A decode step of a GPU as a few launches beside the same model module by module, in the shape of SmolLM2-135M.

    pytest bench/benchmark_program.py

Random int8 weights, read once a step: memory is the limit, and launches where a model is small. Only a GPU runs it;
bench/gpu/end_to_end.py has whole engines beside others.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.gpu.random_models import int8_bytes
from moesaic.bench.ops.point import Point, Prepare, on_gpu, timed
from moesaic.bench.ops.steps import PAST, step_round
from moesaic.kernels.cost import Cost


def points(quick: bool, shape: str = "smollm2-135m") -> Iterator[Point]:
    """Linears in int8, whole and graded, for a stream and for eight."""
    cases = [("int8", 1), ("int8", 8), ("graded", 1), ("planes", 1), ("tiles", 1)]
    for kind, rows in cases[:1] if quick else cases:
        read = int8_bytes(shape)
        rounds: dict[str, Prepare] = {
            "program": on_gpu(partial(step_round, kind, rows, shape, programmed=True)),
            "module by module": partial(step_round, kind, rows, shape, programmed=False),
        }
        yield Point(f"{kind}, {rows} rows after {PAST}", Cost(read, 2 * rows * read), rounds)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_program(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
