"""The memory of the machine: what is left of it, and giving back what was freed."""

import ctypes
import os
import sys
from pathlib import Path


def free_memory() -> int:
    """Bytes that a new program could take."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def give_back_freed_memory() -> None:
    """Has glibc return what was freed to the system. By itself it keeps pieces of up to 32 MB, and what is allocated
    between them keeps them from being used again."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
