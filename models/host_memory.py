"""How much memory there is, and giving back to the machine what a program has freed."""

import ctypes
import os
import sys
from pathlib import Path

_MMAP_THRESHOLD, _LARGE = -3, 256 << 10  # of glibc's malloc.h; bytes
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes() -> int:
    """The memory of the machine, or of the container where that may have less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _LIMITS:
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # not there; "max"
            continue
    return min(found)


def give_back_freed_memory() -> None:
    """Has glibc return what was freed to the system. By itself it keeps pieces of up to 32 MB, and what is allocated
    between them keeps them from being used again."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def give_back_large_pieces_at_once() -> None:
    """Has glibc map every piece of 256 KB and more by itself, so that its memory goes back when it is freed. By
    itself it raises the limit to 32 MB once such a piece is freed, and what lies between freed ones stays.

    For work that holds much for a short time: each such piece is then made of fresh pages, which takes time.
    """
    if sys.platform.startswith("linux"):
        choose = getattr(ctypes.CDLL(None), "mallopt", None)
        if choose is not None:
            choose(_MMAP_THRESHOLD, _LARGE)
