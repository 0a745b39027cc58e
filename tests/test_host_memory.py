"""Freed memory goes back to the system while what lies between it stays."""

import platform
import subprocess
import sys

import pytest

FREES_EVERY_OTHER = """
import sys
from pathlib import Path
from moesaic.models import host_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

if sys.argv[1:]:
    getattr(host_memory, sys.argv[1])()
large = b"x" * (24 << 20)
del large  # glibc then takes pieces of up to as much from one heap
pieces = [b"x" * (1 << 20) for _ in range(64)]
before = resident()
del pieces[::2]
print(before - resident())
"""


def freed_megabytes(*chosen: str) -> int:
    run = [sys.executable, "-c", FREES_EVERY_OTHER, *chosen]
    return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc; other C libraries are left alone")
@pytest.mark.parametrize("choice", ["give_back_large_pieces_at_once", "keep_little_memory"])
def test_every_other_piece_goes_back_when_it_is_freed_and_by_itself_does_not(choice: str) -> None:
    assert freed_megabytes() < 8
    assert freed_megabytes(choice) > 24


FREES_IN_A_WHILE = """
from moesaic.models.host_memory import large_pieces_given_back
before = resident()
with large_pieces_given_back():
    pieces = [b"x" * (1 << 20) for _ in range(64)]
    del pieces[::2]
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is about glibc; other C libraries are left alone")
def test_what_is_freed_while_something_is_loaded_is_not_kept() -> None:
    begin = FREES_EVERY_OTHER[: FREES_EVERY_OTHER.index("del large")]
    run = [sys.executable, "-c", f"{begin}del large{FREES_IN_A_WHILE}"]
    assert int(subprocess.run(run, check=True, capture_output=True, text=True).stdout) < 40
