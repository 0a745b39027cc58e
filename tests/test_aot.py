"""Triton kernels compiled ahead of time, without a GPU: nothing spills and tensor cores are used."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from moesaic.bench.aot import Resources, all_cases, failures_of  # noqa: E402
from moesaic.bench.aot_case import SHARED_LIMIT  # noqa: E402
from moesaic.bench.aot_integers import ROWS  # noqa: E402

CLEAN = Resources(
    case="", target=90, registers=64, stack=0, spills=0, shared_bytes=1000, wide_loads=4, opcodes={"HGMMA": 4}
)


def test_one_case_of_four_compiles_cleanly_for_sm_90(tmp_path: Path) -> None:
    """`make gpu-dry` has all. The compiler has a process of its own, as interpreted kernels cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "moesaic.bench.aot", "--target", "90", "--every", "4"]
    command += ["--json", str(tmp_path / "table.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())
    assert len(rows) == len(all_cases()[::4])


def test_the_cases_cover_decode_and_prefill_in_every_dtype() -> None:
    names = [case.name for case in all_cases()]
    for dtype in ("fp32", "bf16", "fp16"):
        for stage in ("decode", "prefill"):
            assert any(name.startswith(f"int8_linear {dtype} {stage}") for name in names)


def test_the_cases_cover_both_launches_of_experts_and_of_the_router() -> None:
    names = [case.name for case in all_cases()]
    for kernel in ("expert_up", "expert_down"):
        for pair in ("fp32 fp32", "fp32 bf16", "fp32 i8", "bf16 bf16", "bf16 i8", "fp16 fp16", "fp16 i8"):
            assert any(name.startswith(kernel) and f" {pair} decode" in name for name in names)
        for dtype in ("fp32", "bf16"):
            assert any(name.startswith(kernel) and f" {dtype} i8 prefill" in name for name in names)
    for matrix in ("first", "second"):
        assert any(name.startswith(f"route {matrix}") for name in names)


def test_the_cases_cover_every_number_of_rows_of_integer_kernels() -> None:
    names = [case.name for case in all_cases()]
    for kernel in ("graded planes", "digit tiles"):
        assert all(any(name.startswith(f"{kernel} {rows} rows") for name in names) for rows in (1, 2, 4, 8))
    for kernel in ("plane scores", "plane low bits", "plane down", "tile route", "tile up"):
        assert all(any(name.startswith(kernel) and name.endswith(f" {rows} rows") for name in names) for rows in ROWS)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("planted", "sentence"),
    [
        ({"stack": 120}, "spills: 120 bytes of stack, 0 local loads and stores"),
        ({"spills": 3}, "spills: 0 bytes of stack, 3 local loads and stores"),
        ({"shared_bytes": SHARED_LIMIT[90]}, "takes 232448 bytes of shared memory of 232448"),
        ({"opcodes": {"HMMA": 4}}, "has no HGMMA, it has {'HMMA': 4}"),
        ({"wide_loads": 0}, "loads nothing by 16 bytes"),
        ({"opcodes": {}}, "has no HGMMA, it has no tensor-core instruction"),
    ],
)
def test_each_fault_is_a_sentence(planted: dict[str, Any], sentence: str) -> None:
    case = next(case for case in all_cases() if "bf16 prefill" in case.name)
    assert failures_of(case, CLEAN) == []
    [failure] = failures_of(case, replace(CLEAN, **planted))
    assert failure == f"{case.name} on sm_90 {sentence}."


def test_exact_kernels_may_not_use_tensor_cores() -> None:
    case = next(case for case in all_cases() if "fp32" in case.name)
    [failure] = failures_of(case, CLEAN)
    assert "must be exact" in failure
