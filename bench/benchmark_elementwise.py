"""What stands between the products of a GPU's decode step, in Triton, beside torch's own operations.

    pytest bench/benchmark_elementwise.py

Launches are the limit: a row is some kilobytes. Only a GPU runs it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.ops.point import Point, Prepare, on_gpu, timed
from moesaic.bench.rounds import DEVICE, Round, rotated
from moesaic.kernels.cost import Cost
from moesaic.kernels.decode.elementwise import BLOCK, activate_, normalise_, normalise_vectors_
from moesaic.kernels.jit import cdiv
from moesaic.kernels.rows import RMS, RowNorm, measured

HIDDEN, WIDTH, SIZE = 576, 1536, 64
EPS = 1e-5
CALLS = 30  # layers


def repeated(call: Callable[[], object]) -> Round:
    return rotated(lambda: call, float("inf"), CALLS)


def normalised(rows: int) -> Round:
    """Measured in one launch, filled in another."""
    x, norm = torch.randn(rows, HIDDEN, device=DEVICE), RowNorm(RMS, torch.ones(HIDDEN, device=DEVICE), None, EPS)
    y = torch.empty_like(x)
    return repeated(lambda: normalise_(y, measured(x, norm)))


def normalised_vectors(rows: int) -> Round:
    x, norm = torch.randn(rows, HIDDEN, device=DEVICE), RowNorm(RMS, torch.ones(SIZE, device=DEVICE), None, EPS)
    y = torch.empty_like(x)
    return repeated(lambda: normalise_vectors_(y, x, norm))


def torch_norm(rows: int, width: int) -> Round:
    x, weight = torch.randn(rows, HIDDEN // width, width, device=DEVICE), torch.ones(width, device=DEVICE)
    return repeated(lambda: functional.rms_norm(x, (width,), weight, EPS))


def activated(rows: int) -> Round:
    gate, up = (torch.randn(rows, WIDTH, device=DEVICE) for _ in range(2))
    y, largest = torch.empty_like(up), torch.empty(rows, cdiv(WIDTH, BLOCK), device=DEVICE)
    return repeated(lambda: activate_(y, largest, up, gate, "silu"))


def torch_activation(rows: int) -> Round:
    gate, up = (torch.randn(rows, WIDTH, device=DEVICE) for _ in range(2))
    return repeated(lambda: functional.silu(gate) * up)


def points(quick: bool) -> Iterator[Point]:
    """The norm of a row, norms of its heads, and an activation with its product."""
    for rows in (1,) if quick else (1, 8):
        norm, act = Cost(2 * 4 * rows * HIDDEN, 4 * rows * HIDDEN), Cost(3 * 4 * rows * WIDTH, 5 * rows * WIDTH)
        whole: dict[str, Prepare] = {
            "normalise_": on_gpu(partial(normalised, rows)),
            "torch": partial(torch_norm, rows, HIDDEN),
        }
        yield Point(f"norm of {HIDDEN}, {rows} rows", norm, whole)
        heads: dict[str, Prepare] = {
            "normalise_vectors_": on_gpu(partial(normalised_vectors, rows)),
            "torch": partial(torch_norm, rows, SIZE),
        }
        yield Point(f"norms of {SIZE}, {rows} rows", norm, heads)
        product: dict[str, Prepare] = {
            "activate_": on_gpu(partial(activated, rows)),
            "torch": partial(torch_activation, rows),
        }
        yield Point(f"silu(gate) up, {WIDTH}, {rows} rows", act, product)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_elementwise(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
