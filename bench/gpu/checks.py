"""Section 3: every test of a kernel on the device, then compute-sanitizer on one shape of each.

On a CPU a few of each file in Triton's interpreter, and whether all tests can be collected.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .one_shape import KERNELS
from .pytest_rows import FILE
from .section import Plan, run_section

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 12  # most of the time is compilation, on the host
SANITIZER_SECONDS = 45.0  # kept for it
FEW = 3  # tests a file, where they are interpreted
_MARKS = ("device: str", "mark.gpu")


def measure(plan: Plan) -> None:
    if plan.dry:
        collected(plan)
        tested(plan, ["--kernels", str(FEW)], plan.left - 5)
    else:
        tested(plan, ["--gpu", "-o", "filterwarnings=default", *_side_by_side()], plan.left - SANITIZER_SECONDS)
    sanitized(plan)


def collected(plan: Plan) -> None:
    """Collects what a GPU runs, since a file that needs what is not here would end the collection of all."""
    _pytest(plan, ["--collect-only", "-q", "--gpu", *kernel_files()], plan.left)


def tested(plan: Plan, options: Sequence[str], seconds: float) -> None:
    """A row a test, and a row of how many ended how."""
    said = _pytest(plan, [*options, "-q", "--maxfail=40", *kernel_files()], seconds)
    rows = [row for row in plan.rows if "test" in row]
    outcomes = {name: sum(row["outcome"] == name for row in rows) for name in ("passed", "failed", "skipped")}
    plan.rows.add(what="tests", **{"ended": said, "by_outcome": outcomes})


def kernel_files() -> list[str]:
    """Test files that hold a test of a kernel."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file) for file in files if any(mark in file.read_text() for mark in _MARKS)]


def _side_by_side() -> list[str]:
    return ["-n", str(PROCESSES)] if find_spec("xdist") else []


def _pytest(plan: Plan, options: Sequence[str], seconds: float) -> str:
    """Runs pytest and says how it ended: a row says `failed` where no test does so."""
    command = [sys.executable, "-m", "pytest", "-p", "moesaic.bench.gpu.pytest_rows", "--rootdir", str(ROOT)]
    # from the environment, as the processes of xdist know no other way
    environment = {**os.environ, FILE: str(plan.rows.file)}
    process = subprocess.Popen([*command, "-c", str(ROOT / "pyproject.toml"), *options], env=environment)
    said = _waited(process, seconds)
    if said not in ("status 0", "status 1"):
        plan.rows.add(what="pytest", failed=said, options=list(options)[:4])
    return said


def sanitized(plan: Plan) -> None:
    """memcheck, each kernel a process of its own, side by side: nothing is timed here."""
    found = shutil.which("compute-sanitizer")
    if found is None:
        plan.rows.add(what="compute-sanitizer", skipped="it is not here")
    # without it the calls are made all the same: what it would check must run
    tool = [found, "--tool", "memcheck", "--error-exitcode", "9"] if found else []
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else one tensor runs over into the next
    command = [*tool, sys.executable, "-m", "moesaic.bench.gpu.one_shape"]
    processes = {name: subprocess.Popen([*command, name], env=environment) for name in KERNELS}
    for name, process in processes.items():
        said = _waited(process, plan.left - 2)
        problem = {} if said == "status 0" else {"cut" if said.startswith("cut") else "failed": said}
        plan.rows.add(what="one shape", kernel=name, checked=found is not None, **problem)


def _waited(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """Waits for a process and says how it ended."""
    try:
        return f"status {process.wait(max(seconds, 0))}"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"cut off after {seconds:.0f} s"


if __name__ == "__main__":
    sys.exit(run_section(measure))
