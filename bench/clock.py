"""How long a call takes on the device: a GPU's by its events, since a host's clock would time launches."""

import time
from collections.abc import Callable

import torch

Call = Callable[[], object]


def seconds_of(call: Call) -> float:
    """Times one call on the current device, with all that it put on the current stream."""
    if not torch.cuda.is_available():
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def replayed(call: Call) -> Callable[[], None]:
    """The same as a CUDA graph, as decode runs it: launches from Python would hide the kernels.

    What it calls must have run before, and must not wait for the device.
    """
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def samples_of(call: Call, seconds: float, least: int = 3, most: int = 50) -> list[float]:
    """Times each of `least` to `most` calls, no more than fit into `seconds` once the least are there."""
    found: list[float] = []
    while len(found) < least or (len(found) < most and sum(found) < seconds):
        found.append(seconds_of(call))
    return found
