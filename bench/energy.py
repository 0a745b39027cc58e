"""Joules that a machine spends, where it counts them: RAPL of its processors, NVML of its GPUs.

RAPL's counters (Linux, powercap) are of whole packages, NVML's of whole boards: what else runs there is counted too, so
that a figure is of use on a quiet machine alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")
_LEAST_SECONDS = 0.5  # a board counts ten times a second and less
NOT_MEASURED = "not measured: this machine tells nobody what it spends"


@dataclass(frozen=True, slots=True)
class Reading:
    """Joules so far by counter, and where each of them begins again at 0. missing: why others are not there."""

    joules: Mapping[str, float]
    ranges: Mapping[str, float]
    missing: tuple[str, ...] = ()

    def until(self, later: "Reading") -> float | None:
        """Spent from here to a later reading; None where nothing is counted."""
        both = [name for name in self.joules if name in later.joules]
        spent = (later.joules[name] - self.joules[name] for name in both)
        turns = (
            each + (self.ranges.get(name, 0.0) if each < 0 else 0.0) for name, each in zip(both, spent, strict=True)
        )
        return sum(turns) if both else None

    @property
    def why(self) -> str:
        """One sentence on why nothing is counted."""
        return f"{NOT_MEASURED} ({'; '.join(self.missing)})" if self.missing else NOT_MEASURED


def read_energy(powercap: Path = _POWERCAP) -> Reading:
    """All counters that may be read now."""
    joules, ranges, missing = {}, {}, f"no counter of RAPL below {powercap}"
    for package in sorted(powercap.glob("intel-rapl:*")):
        if package.name.count(":") == 1:  # below are parts of it
            try:
                joules[package.name] = int((package / "energy_uj").read_text()) / 1e6
                ranges[package.name] = int((package / "max_energy_range_uj").read_text()) / 1e6
            except (OSError, ValueError) as error:
                missing = f"{package / 'energy_uj'} cannot be read: {getattr(error, 'strerror', None) or error}"
    gpus, no_gpus = _of_gpus()
    return Reading(joules | gpus, ranges, (*(() if joules else (missing,)), *no_gpus))


def _of_gpus() -> tuple[dict[str, float], tuple[str, ...]]:
    """By NVML, where nvidia-ml-py and a driver are there; it counts millijoules since the driver was loaded."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return {}, ("nvidia-ml-py is not installed, which asks a GPU: pip install 'moesaic[gpu]'",)
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except (nvml.NVMLError, OSError) as error:
        return {}, (f"NVML: {error}",)
    found, missing = {}, [] if count else ["NVML: there is no GPU"]
    for i in range(count):
        try:
            found[f"gpu {i}"] = nvml.nvmlDeviceGetTotalEnergyConsumption(nvml.nvmlDeviceGetHandleByIndex(i)) / 1e3
        except nvml.NVMLError as error:
            missing.append(f"NVML, gpu {i}: {error}")
    return found, () if found else tuple(missing)


class Stretch:
    """A stretch of time that begins now, and what it takes."""

    def __init__(self) -> None:
        self._before, self._began = read_energy(), time.perf_counter()

    @property
    def counts(self) -> bool:
        """Whether anything is counted."""
        return bool(self._before.joules)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def figures(self, tokens: int) -> dict[str, Any]:
        """joules_per_token up to now; None where it was not measured, and why under `energy`."""
        seconds, joules = self.seconds, self._before.until(read_energy())
        if joules is None:
            return {"joules_per_token": None, "energy": self._before.why}
        if seconds < _LEAST_SECONDS or not joules:
            short = f"not measured: {seconds:.2g} s are too few for the counters, which need {_LEAST_SECONDS:g} s"
            return {"joules_per_token": None, "energy": short}
        return {"joules_per_token": joules / tokens}


def energy_of(call: Callable[[], object], tokens: int) -> dict[str, Any]:
    """Of a call that makes so many tokens and waits for them, repeated until counters can tell; never without any."""
    stretch, made = Stretch(), 0
    while stretch.counts and (not made or stretch.seconds < _LEAST_SECONDS):
        call()
        made += tokens
    return stretch.figures(made)


def told(by_name: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line on each that tells of joules a token; one line where nothing was measured, for the same reason.

    Figures from before it was asked for have no line.
    """
    lines = {name: _said(figures) for name, figures in by_name.items() if "joules_per_token" in figures}
    if len({*lines.values()}) == 1 and not any(by_name[name]["joules_per_token"] for name in lines):
        yield f"energy: {next(iter(lines.values()))}"
    else:
        yield from (f"energy, {name}: {said}" for name, said in lines.items())


def _said(figures: Mapping[str, Any]) -> str:
    joules = figures["joules_per_token"]
    return str(figures["energy"]) if joules is None else f"{joules:.3g} J a token, of all that this machine spent"
