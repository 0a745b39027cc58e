"""Which results of a report on load count: not of a level that was given up, or where what measures was itself off."""

from collections.abc import Iterator, Mapping
from typing import Any

_STEP_SECONDS = 0.1


def why_not_counted(found: Mapping[str, Any]) -> str:
    """Of what one server came to at one level; "" where that is a result, or is nothing of this kind."""
    return ", ".join(_reasons(found)) if isinstance(found.get("generator"), Mapping) else ""


def _reasons(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("why"):
        yield f"given up, {found['why']}"
    if found["generator"].get("was_the_limit"):
        yield "the generator was the limit"
    if abs(stepped := found.get("clock_stepped_seconds", 0.0)) > _STEP_SECONDS:
        yield f"the clock was set by {stepped:.1f} s meanwhile"


def not_counted(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Level, server and reason; none of a report of another kind."""
    levels = report.get("levels")
    for level in levels if isinstance(levels, list) else ():
        results = level.get("results") if isinstance(level, Mapping) else None
        for name, found in results.items() if isinstance(results, Mapping) else ():
            if isinstance(found, Mapping) and (why := why_not_counted(found)):
                yield level["name"], name, why


def counted(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the results that count alone."""
    return {**report, "levels": [{**level, "results": _counted(level["results"])} for level in report["levels"]]}


def _counted(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in results.items() if not why_not_counted(found)}
