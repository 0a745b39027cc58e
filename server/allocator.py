"""How much of freed memory the C library keeps: little, in a process that holds large requests for a moment."""

import ctypes
from contextlib import suppress

_SETTINGS = {-1: 1 << 17, -3: 1 << 17, -8: 1}  # of glibc: trim above, a mapping of its own above, number of arenas


def keep_little_memory() -> None:
    """Has freed memory given back to the system soon. Does nothing where the C library is another one."""
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, value in _SETTINGS.items():
            mallopt(name, value)
