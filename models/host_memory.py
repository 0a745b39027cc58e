"""Giving back to the machine the memory that a program has freed."""

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Has glibc return what was freed to the system. By itself it keeps pieces of up to 32 MB, and what is allocated
    between them keeps them from being used again."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
