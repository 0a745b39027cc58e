"""int8 on both sides, one scale a token (W8A8), beside torch's own dynamic int8, in SmolLM2-135M's shapes.

    pytest bench/benchmark_int8_dynamic_linear.py

`packed` is what a served model runs: the tiles of `digit_linear` with one digit an activation, the same sums.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from torch import Tensor

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.linears import FP32, SHAPES, Call, linear_points
from moesaic.bench.ops.point import Point, timed
from moesaic.kernels.digit_linear import digit_linear, pack_digits
from moesaic.kernels.int8_dynamic_linear import int8_dynamic_linear
from moesaic.kernels.int8_linear import int8_linear_cost


def prepare_ours(weight: Tensor, scale: Tensor) -> Call:
    return lambda x: int8_dynamic_linear(x, weight, scale)


def prepare_packed(weight: Tensor, scale: Tensor) -> Call:
    packed = pack_digits(weight, scale, digits=1)
    return lambda x: digit_linear(x, packed)


def points(quick: bool) -> Iterator[Point]:
    """A layer's matrix and the head, alone and with others."""
    ours = {"int8_dynamic_linear": (prepare_ours, FP32, 1), "packed": (prepare_packed, FP32, 1)}
    cost = partial(int8_linear_cost, activation_bytes=4)
    return linear_points(ours, cost, SHAPES[:1] if quick else SHAPES)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_int8_dynamic_linear(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
