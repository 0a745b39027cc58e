"""How many threads torch uses. It is a setting of the process, so it is put back after use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .bounds import THREADS

_SMALL_MODEL_BYTES = 16 << 20  # below this, waking a second thread costs more than it gives


def choose_threads(wanted: int | None, weight_bytes: int) -> int:
    """The count asked for, else the processors this process may use; one for a model that fits a cache.

    Raises SetupError for a count that no machine like this can run: the library that makes them would end the process.
    """
    THREADS.check("threads", wanted)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or (1 if weight_bytes < _SMALL_MODEL_BYTES else available)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs a block with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
