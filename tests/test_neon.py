"""The dot products of ARM: compiled by a cross compiler, run on an emulator, where both are there."""

import shutil
import subprocess
from pathlib import Path

import pytest

from moesaic.kernels.native import FLAGS, SOURCES

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def test_dot_products_of_neon_give_the_bits_of_plain_ones(tmp_path: Path) -> None:
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not here")
    program, sources = tmp_path / "digits", [Path(__file__).with_name("neon_digits.cpp"), SOURCES / "team.cpp"]
    subprocess.run([COMPILER, *FLAGS, "-static", *map(str, sources), "-o", str(program)], check=True, timeout=900)
    done = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, timeout=900)
    assert done.stdout == "0 differ\n" and done.returncode == 0
