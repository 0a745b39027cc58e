"""bf16 weights under fp32 activations beside torch's own products, in the shapes of SmolLM2-135M.

    pytest bench/benchmark_dense_linear.py

A lone token reads every weight once: bf16 may be twice as fast as fp32, and arithmetic stays fp32.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.linears import BF16, FP32, SHAPES, Call, linear_points
from moesaic.bench.ops.point import Point, timed
from moesaic.kernels.cost import Cost
from moesaic.kernels.dense_linear import dense_linear


def prepare_ours(weight: Tensor, scale: Tensor) -> Call:
    narrow = (weight * scale[:, None]).to(BF16)
    return lambda x: dense_linear(x, narrow)


def cost(tokens: int, inputs: int, outputs: int) -> Cost:
    """Each operand once: weights in bf16, activations in fp32."""
    return Cost(2 * outputs * inputs + 4 * tokens * (inputs + outputs), 2 * tokens * inputs * outputs)


def points(quick: bool) -> Iterator[Point]:
    """A layer's matrix and the head, alone and with others."""
    return linear_points({"dense_linear": (prepare_ours, FP32, 2)}, cost, SHAPES[:1] if quick else SHAPES)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_dense_linear(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
