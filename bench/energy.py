"""Joules that a machine spends, where it counts them: RAPL of its processors, NVML of its GPUs.

RAPL's counters (Linux, powercap) are of whole packages, NVML's of whole boards: what else runs there is counted too, so
that a figure is of use on a quiet machine alone.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")
NOT_MEASURED = "not measured: this machine tells nobody what it spends"


@dataclass(frozen=True, slots=True)
class Reading:
    """Joules so far by counter, and where each of them begins again at 0."""

    joules: Mapping[str, float]
    ranges: Mapping[str, float]

    def until(self, later: "Reading") -> float | None:
        """Spent from here to a later reading; None where nothing is counted."""
        both = [name for name in self.joules if name in later.joules]
        spent = (later.joules[name] - self.joules[name] for name in both)
        turns = (
            each + (self.ranges.get(name, 0.0) if each < 0 else 0.0) for name, each in zip(both, spent, strict=True)
        )
        return sum(turns) if both else None


def read_energy(powercap: Path = _POWERCAP) -> Reading:
    """All counters that may be read now."""
    joules, ranges = {}, {}
    for package in sorted(powercap.glob("intel-rapl:*")):
        if package.name.count(":") == 1:  # below are parts of it
            with suppress(OSError, ValueError):
                joules[package.name] = int((package / "energy_uj").read_text()) / 1e6
                ranges[package.name] = int((package / "max_energy_range_uj").read_text()) / 1e6
    return Reading(joules | _of_gpus(), ranges)


def _of_gpus() -> dict[str, float]:
    """By NVML, where nvidia-ml-py and a driver are there; it counts millijoules since the driver was loaded."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # its own errors are of the package that may be missing
        return {}
    found = {}
    for i in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):
            found[f"gpu {i}"] = nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(i)) / 1e3
    return found
