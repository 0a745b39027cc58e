"""Attention of a GPU's decode step, with rotation and the write of keys and values, beside torch's three operations.

    pytest bench/benchmark_attend.py

A row reads its past once, so memory is the limit, or the launch where the past is short. Only a GPU runs it.
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
from moesaic.kernels.cost import Cost
from moesaic.kernels.decode.attend import Heads, Parts, attend_rows
from moesaic.kernels.paged_attention import BLOCK_TOKENS, KVPages, paged_attention_cost
from moesaic.kernels.weighing import PLAIN
from moesaic.models.rope import rotate, rotation

HEADS, KV_HEADS, SIZE = 9, 3, 64
CALLS = 30  # layers


def turns(positions: int) -> tuple[Tensor, Tensor]:
    cosine, sine = rotation(
        torch.arange(positions).unsqueeze(0), 1e4 ** -torch.linspace(0, 1, SIZE // 2), torch.float32
    )
    return cosine[0, 0].contiguous().to(DEVICE), sine[0, 0].contiguous().to(DEVICE)


def attends(rows: int, past: int) -> Round:
    """Layers with pages of their own."""
    blocks = past // BLOCK_TOKENS + 1
    query, key, value = (torch.randn(rows, heads * SIZE, device=DEVICE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    heads, parts = Heads(query, key, value, SIZE, turns(past + 1), SIZE), Parts.of(
        rows, HEADS, KV_HEADS, SIZE, past + 1, torch.device(DEVICE)
    )  # fmt: skip
    tables = torch.arange(rows * blocks, dtype=torch.int32, device=DEVICE).view(rows, blocks)
    positions = torch.full((rows,), past, dtype=torch.int32, device=DEVICE)
    mixed, largest = torch.empty_like(query), torch.empty(rows, HEADS, device=DEVICE)

    def layer() -> Callable[[], None]:
        shape = (rows * blocks, KV_HEADS, BLOCK_TOKENS, SIZE)
        pages = KVPages(*(torch.randn(shape, device=DEVICE) for _ in range(2)))
        return lambda: attend_rows(mixed, largest, heads, PLAIN, pages, tables, positions, parts)

    return rotated(layer, float("inf"), CALLS)


def torch_attends(rows: int, past: int) -> Round:
    """Turns, stores into contiguous keys, and attends."""
    cosine, sine = (each[past].view(1, 1, 1, SIZE) for each in turns(past + 1))
    query = torch.randn(rows, HEADS, 1, SIZE, device=DEVICE)
    key, value = (torch.randn(rows, KV_HEADS, 1, SIZE, device=DEVICE) for _ in range(2))

    def layer() -> Callable[[], Tensor]:
        keys, values = (torch.randn(rows, KV_HEADS, past + 1, SIZE, device=DEVICE) for _ in range(2))

        def call() -> Tensor:
            keys[:, :, past:], values[:, :, past:] = rotate(key, cosine, sine), value
            turned = rotate(query, cosine, sine).view(rows, KV_HEADS, -1, SIZE)
            return functional.scaled_dot_product_attention(turned, keys, values)

        return call

    return rotated(layer, float("inf"), CALLS)


def points(quick: bool) -> Iterator[Point]:
    """A short past and a long one."""
    for rows, past in ((1, 511),) if quick else ((1, 511), (8, 511), (1, 2047)):
        one = paged_attention_cost(1, HEADS, KV_HEADS, SIZE, past + 1, 4)
        rounds: dict[str, Prepare] = {
            "attend_rows": on_gpu(partial(attends, rows, past)),
            "torch": partial(torch_attends, rows, past),
        }
        yield Point(f"{rows} rows after {past}", Cost(rows * one.bytes, rows * one.flops), rounds)


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_attend(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
