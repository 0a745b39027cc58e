"""The written count of instructions is that of the code that was compiled."""

import shutil

import pytest
from kernel_harness import library

from moesaic.bench.instructions import COUNTS, compiled_counts, instructions_per_weight
from moesaic.kernels.native import native_status

MOVES = 1.4  # times the written count: a compiler may move registers about
SHORT = 0.9  # and fold a load


@pytest.mark.parametrize("isa", COUNTS)
def test_the_compiled_loop_has_the_instructions_that_are_written_down(isa: str) -> None:
    library()
    path = native_status().path
    if path is None or not shutil.which("objdump"):
        pytest.skip("there is no objdump here")
    for bits, compiled in compiled_counts(path, isa).items():
        assert SHORT * COUNTS[isa][bits].total <= compiled <= MOVES * COUNTS[isa][bits].total


def test_a_weight_read_at_half_its_bits_costs_fewer_instructions() -> None:
    for isa in COUNTS:
        counted = instructions_per_weight(isa)
        assert counted is not None and counted["4"] < counted["6"] < counted["8"]


def test_nobody_counted_code_without_vector_instructions() -> None:
    assert instructions_per_weight("portable") is None
