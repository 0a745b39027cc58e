"""How much memory there is, and giving back to the machine what a program has freed."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_TRIM_ABOVE, _MAP_ABOVE, _MOST_ARENAS = -1, -3, -8  # what malloc.h of glibc calls M_TRIM_THRESHOLD and so on
_GLIBC_MOST = 32 << 20  # up to where glibc raises that limit by itself
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
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def give_back_large_pieces_at_once() -> None:
    """Has glibc map every piece of 1 MB and more by itself, so that its memory goes back when it is freed. By
    itself it raises the limit to 32 MB once such a piece is freed, and what lies between freed ones stays.

    For work that holds much for a short time: each such piece is then made of fresh pages, which takes time.
    """
    _set({_MAP_ABOVE: 1 << 20})


@contextmanager
def large_pieces_given_back() -> Iterator[None]:
    """The same for a while: a model that is loaded and packed anew is then held once. Pieces of up to 32 MB are kept
    again afterwards, so that who computes is not given fresh pages each time.
    """
    give_back_large_pieces_at_once()
    try:
        yield
    finally:
        _set({_MAP_ABOVE: _GLIBC_MOST})
        give_back_freed_memory()


def keep_little_memory() -> None:
    """Has all that is freed go back to the system soon: for a process that holds large requests for a moment."""
    _set({_TRIM_ABOVE: 128 << 10, _MAP_ABOVE: 128 << 10, _MOST_ARENAS: 1})


def _set(values: Mapping[int, int]) -> None:
    choose = _of_glibc("mallopt")
    for name, value in values.items():
        if choose is not None:
            choose(name, value)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it is another one."""
    found: Callable[..., int] | None = None
    if sys.platform.startswith("linux"):
        found = getattr(ctypes.CDLL(None), name, None)
    return found
