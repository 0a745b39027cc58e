"""What bench/results/cost/ holds, looked up by candidate, rows and machine."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from .figures import result

_ISAS = ("avx512_vnni", "avx2", "dp4a")
_UNITS = {"bytes": "b", "instructions": "i"}


def costs() -> Any:
    """All of it: machines, loops, costs."""
    return result("cost/costs")


@cache
def cost(candidate: str, asked: float | None, rows: int) -> Mapping[str, Any]:
    """A candidate at the share that it was asked for, None where it reads every weight."""
    found: Mapping[str, Any] = next(
        each
        for each in costs()["costs"]
        if (each["candidate"], each["asked"], each["rows"]) == (candidate, asked, rows)
    )
    return found


def instructions(found: Mapping[str, Any]) -> str:
    """Of AVX-512, AVX2 and a GPU's thread for each weight: 0.14, 0.55, 1.4; a dash where none were counted."""
    counted = (found["instructions"].get(isa) for isa in _ISAS)
    return " | ".join(f"{each:.2f}" if each else "" for each in counted)


def time(found: Mapping[str, Any], machine: int, isa: str) -> str:
    """Milliseconds, and what binds: 7.04 b; nothing where none were counted."""
    if _time(found, machine, isa) is None:
        return ""
    return f"{milliseconds(found, machine, isa):.3g} {_UNITS[bound(found, machine, isa)]}"


def milliseconds(found: Mapping[str, Any], machine: int, isa: str) -> float:
    """Of a billion weights. machine: its place in the list."""
    return float(_there(found, machine, isa)["milliseconds"])


def bound(found: Mapping[str, Any], machine: int, isa: str) -> str:
    """bytes or instructions."""
    return str(_there(found, machine, isa)["bound"])


def _there(found: Mapping[str, Any], machine: int, isa: str) -> Mapping[str, Any]:
    time = _time(found, machine, isa)
    if time is None:
        raise KeyError(f"{found['candidate']} has no time with {isa}")
    return time


def _time(found: Mapping[str, Any], machine: int, isa: str) -> Mapping[str, Any] | None:
    name = costs()["machines"][machine]["name"]
    return next((each for each in found["times"] if (each["machine"], each["isa"]) == (name, isa)), None)


def compiled_for(loop: Mapping[str, Any]) -> str:
    """What a loop's instructions are made of: loads 4, dots 16."""
    return ", ".join(f"{name} {count}" for name, count in loop["parts"].items() if count)
