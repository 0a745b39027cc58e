"""How many threads torch uses. It is a setting of the process, so it is put back after use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from .bounds import THREADS

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds in a period, and the period
_OLD_QUOTA = tuple(Path(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
_SMALL_MODEL_BYTES = 16 << 20  # below this, waking a second thread costs more than it gives


def choose_threads(wanted: int | None, weight_bytes: int) -> int:
    """The count asked for, else `processors`; one for a model that fits a cache.

    Raises SetupError for a count that no machine like this can run: the library that makes them would end the process.
    """
    THREADS.check("threads", wanted)
    return wanted or (1 if weight_bytes < _SMALL_MODEL_BYTES else processors())


def processors() -> int:
    """How many this process may use: by its affinity, and by the quota of a container, of which a part is none."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, int(_quota())))


def _quota() -> float:
    """Processors that a container gives; more than there are where it sets no limit."""
    for files in ((_QUOTA,), _OLD_QUOTA):
        try:
            quota, period = (int(word) for file in files for word in file.read_text().split())
        except (OSError, ValueError):  # not there; "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return float(2**31)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs a block with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
