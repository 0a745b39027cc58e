"""Rounds of contestants that take turns, so that what disturbs the machine disturbs all alike."""

import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ..models.version import VERSION
from .clock import replayed as replayed  # callers find it here
from .clock import seconds_of
from .machine import read_bandwidth

SECONDS = 0.25  # of measuring, for each contestant
ROTATED_BYTES = 96 << 20  # of weights, three times the last cache
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CANNOT_RUN = (ImportError, NotImplementedError, RuntimeError)  # of a peer: absent, or not made for this device

Round = tuple[Callable[[], None], int]  # calls the contestant once on each of its copies; how many there are


@contextmanager
def quiet(threads: int | None = None) -> Iterator[None]:
    """Others' deprecation warnings are not what is measured, and gradients are not wanted; on so many threads."""
    before = torch.get_num_threads()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def copies_of(num_bytes: float, read: float | None = None) -> int:
    """How many copies of weights exceed the last cache together; two at least. read: of num_bytes, by a call, whose
    sum before the first copy's turn comes again exceeds it too.
    """
    return max(2, math.ceil(ROTATED_BYTES / min(num_bytes, 1.5 * (num_bytes if read is None else read))))


def rotated(prepare: Callable[[], Callable[[], object]], num_bytes: float, least: int = 2) -> Round:
    """Calls over so many copies of what reads num_bytes as exceed the last cache, as a model's layers do; `least`
    of them. Each is called once, which compiles whatever there is to compile.
    """
    calls = [prepare() for _ in range(max(least, copies_of(num_bytes)))]

    def run() -> None:
        for call in calls:
            call()

    run()
    return (run if DEVICE == "cpu" else replayed(run)), len(calls)


def interleaved(runs: dict[str, Round], wanted: float = SECONDS) -> dict[str, list[float]]:
    """Measures the seconds per call of each round, in turns: what disturbs the machine then disturbs all alike.

    wanted: seconds for each contestant; three rounds at least.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + wanted * len(runs)
    while time.perf_counter() < end or len(seconds[next(iter(runs))]) < 3:
        for name, (run, copies) in runs.items():
            seconds[name].append(seconds_of(run) / copies)
    return seconds


@cache
def limit() -> float:
    """Bytes per second of a plain read: the limit of decode."""
    found: float = read_bandwidth()
    return found


def versions() -> dict[str, str]:
    return {"moesaic": VERSION, "torch": torch.__version__, "python": platform.python_version()}
