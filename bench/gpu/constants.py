"""Section 2: what this device can do at all, which every other figure is held against."""

import sys
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..clock import replayed, samples_of
from ..rounds import DEVICE
from .dots import dots
from .rows import Row
from .section import Plan, attempt, run_section
from .sizes import Sizes, sizes_for

SECONDS = 0.2  # of samples, for each figure
GEMV_ROWS = (1, 2, 4, 8, 16)
CHAIN = 1000  # launches in a graph, one after the other


def measure(plan: Plan) -> None:
    sizes = sizes_for(plan.dry)
    with torch.inference_mode():
        for name, call in bandwidths(sizes):
            attempt(plan, call, what=name)
        attempt(plan, launches, what="launch")
        for name, call in products(8192 if not plan.dry else 64):
            attempt(plan, call, what=name)
        for name, call in dots():
            attempt(plan, call, what=name)
        for width in sizes.widths:
            for rows in GEMV_ROWS:
                shape = (rows, width.hidden, width.width)
                attempt(plan, lambda shape=shape: gemv(sizes, *shape), what="cublas bf16", **_named(*shape))  # type: ignore[misc]


def bandwidths(sizes: Sizes) -> Iterator[tuple[str, Callable[[], Row]]]:
    """A copy, bytes read and written counted; a sum, which reads; a fill, which writes."""
    count = sizes.rotated_bytes // 4

    def copy() -> Row:
        source = torch.randn(count, device=DEVICE)
        target = torch.empty_like(source)
        return rate(lambda: target.copy_(source), 2 * source.nbytes)

    def read() -> Row:
        source = torch.randn(count, device=DEVICE)
        return rate(lambda: source.sum(), source.nbytes)

    def write() -> Row:
        target = torch.empty(count, device=DEVICE)
        return rate(lambda: target.fill_(1.5), target.nbytes)

    yield from (("copy", copy), ("read", read), ("write", write))


def rate(call: Callable[[], Any], num_bytes: int) -> Row:
    """GB/s of the median and of the best sample."""
    call()
    taken = samples_of(call, SECONDS)
    return {
        "gigabytes_per_second": num_bytes / median(taken) / 1e9,
        "best_gigabytes_per_second": num_bytes / min(taken) / 1e9,
        "bytes": num_bytes,
    }


def launches() -> Row:
    """Microseconds of one more tiny kernel that waits for the one before: in a graph, and launched from Python."""
    x = torch.zeros(1, device=DEVICE)

    def chain(count: int) -> Callable[[], None]:
        def call() -> None:
            for _ in range(count):
                x.add_(1.0)

        return call

    for count in (1, CHAIN):
        chain(count)()
    eager = [min(samples_of(chain(count), SECONDS)) for count in (1, CHAIN)]
    found = {"microseconds_eager": (eager[1] - eager[0]) / (CHAIN - 1) * 1e6}
    if DEVICE == "cuda":
        graphs = [min(samples_of(replayed(chain(count)), SECONDS)) for count in (1, CHAIN)]
        found["microseconds_in_a_graph"] = (graphs[1] - graphs[0]) / (CHAIN - 1) * 1e6
        found["microseconds_of_a_graph_of_one"] = graphs[0] * 1e6
    return found


def products(size: int) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Square matrices, in every number format that our kernels or their peers multiply in."""

    def floats(dtype: torch.dtype) -> Callable[[], Row]:
        def call() -> Row:
            a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
            return operations(lambda: torch.mm(a, b), size)

        return call

    def integers() -> Row:
        a, b = (torch.randint(-127, 128, (size, size), device=DEVICE, dtype=torch.int8) for _ in range(2))
        return operations(lambda: torch._int_mm(a, b.t()), size)

    yield "product bf16", floats(torch.bfloat16)
    yield "product int8", integers
    yield "product fp32", floats(torch.float32)


def operations(call: Callable[[], Any], size: int) -> Row:
    call()
    taken = samples_of(call, SECONDS)
    return {
        "size": size,
        "teraflops": 2 * size**3 / median(taken) / 1e12,
        "best_teraflops": 2 * size**3 / min(taken) / 1e12,
    }


def gemv(sizes: Sizes, rows: int, inputs: int, outputs: int) -> Row:
    """Few rows by a matrix, over weights that together exceed the last cache, in a graph."""
    x = torch.randn(rows, inputs, device=DEVICE, dtype=torch.bfloat16)
    copies = sizes.copies(2 * inputs * outputs)
    weights = [torch.randn(outputs, inputs, device=DEVICE, dtype=torch.bfloat16) for _ in range(copies)]
    taken = rotated([lambda weight=weight: functional.linear(x, weight) for weight in weights])  # type: ignore[misc]
    moved = 2 * (inputs * outputs + rows * (inputs + outputs))
    return {"microseconds": median(taken) * 1e6, "gigabytes_per_second": moved / median(taken) / 1e9, "copies": copies}


def rotated(calls: list[Callable[[], Tensor]]) -> list[float]:
    """The seconds of one call, from samples that make all of them in turn, as a graph where there is a GPU."""

    def run() -> None:
        for call in calls:
            call()

    run()
    taken = samples_of(replayed(run) if DEVICE == "cuda" else run, SECONDS)
    return [seconds / len(calls) for seconds in taken]


def _named(rows: int, inputs: int, outputs: int) -> Row:
    return {"rows": rows, "inputs": inputs, "outputs": outputs}


if __name__ == "__main__":
    sys.exit(run_section(measure))
