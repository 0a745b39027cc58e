"""Section 1: what the machine is, and whether every module of the package can be imported on it."""

import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path

import torch

from ...evaluate.provenance import provenance
from .rows import Row
from .section import Plan, attempt, run_section

ROOT = Path(__file__).resolve().parents[2]
_QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.draw"


def measure(plan: Plan) -> None:
    attempt(plan, machine, what="machine")
    for name in modules():
        attempt(plan, lambda name=name: imported(name), what="import", module=name)  # type: ignore[misc]


def machine() -> Row:
    """Device, versions and commit."""
    packages = {each.name: each.version for each in distributions()}
    return {**provenance(), "gpu": gpu(), "nvidia_smi": nvidia_smi(), "packages": dict(sorted(packages.items()))}


def gpu() -> Row | None:
    """None on a machine without one."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_bytes": found.total_memory,
        "l2_bytes": found.L2_cache_size,
        "cuda": torch.version.cuda,
    }


def nvidia_smi() -> str:
    """One line of figures; why there is none where it cannot be run."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not run: {error}"
    return (shown.stdout or shown.stderr).strip()


def modules() -> Iterator[str]:
    """Every module of the packages that pyproject.toml names, without what builds them."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    for package in named:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for file in sorted(folder.glob("*.py")):
            if file == ROOT / "setup.py":
                continue
            yield package if file.stem == "__init__" else f"{package}.{file.stem}"


def imported(name: str) -> Row:
    began = time.perf_counter()
    import_module(name)
    return {"seconds": round(time.perf_counter() - began, 3)}


if __name__ == "__main__":
    sys.exit(run_section(measure))
