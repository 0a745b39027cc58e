"""The int8 linear of two digits an activation beside torch's quantized and dense ones, in SmolLM2-135M's shapes.

    pytest bench/benchmark_digit_linear.py

Weights are the bytes of int8, sums exact integers; torch's dynamic int8 rounds activations to one digit. On a GPU a
decode step is bound by memory, and many rows by tensor cores.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from torch import Tensor

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.linears import FP32, SHAPES, Call, linear_points
from moesaic.bench.ops.point import Point, timed
from moesaic.kernels.digit_linear import digit_linear, digit_linear_cost, pack_digits

MANY = (1536, 576, 128)  # a chunk of a prompt


def prepare_ours(weight: Tensor, scale: Tensor) -> Call:
    packed = pack_digits(weight, scale)
    return lambda x: digit_linear(x, packed)


def points(quick: bool) -> Iterator[Point]:
    """A layer's matrix and the head, alone, with others, and for a chunk of a prompt."""
    cost = partial(digit_linear_cost, activation_bytes=4)
    shapes = SHAPES[:1] if quick else (*SHAPES, MANY)
    return linear_points({"digit_linear": (prepare_ours, FP32, 1)}, cost, shapes)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_digit_linear(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
