"""The pictures of a report on load: what is delivered against how long one waits, and how waiting is spread."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...evaluate.files import as_png

COLOURS = ("#12907f", "#c98a2b", "#8b6bbf", "#cf5b45", "#3f84c7", "#8a8f98")  # legible on white and on black
_CURVES = {"ttft": "time to first token, ms", "itl": "between two messages, ms", "e2e": "whole answer, ms"}
_BESIDE, _MOST_COURSES = 3, 12
_CEILING = 2.0  # the highest wait that is drawn, over the longest p99


def _panels(count: int) -> tuple[Any, Sequence[Any]]:
    """So many of them on one sheet, three beside each other."""
    from matplotlib.figure import Figure

    deep = -(-count // _BESIDE)
    sheet = Figure(figsize=(5.2 * _BESIDE, 4.2 * deep), dpi=110, layout="constrained")
    panels = [*sheet.subplots(deep, _BESIDE, squeeze=False).ravel()]
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    return sheet, panels[:count]


def overview(report: Mapping[str, Any]) -> bytes:
    """Three panels: throughput against the speed that a user sees, first tokens and goodput against what is delivered.

    A point a level; bars are the 95 % intervals.
    """
    sheet, (speed, first, goodput) = _panels(3)
    for colour, style, name, levels in _series(report):
        line = (name, colour, style)
        answered = [found for found in levels if "ttft" in found["times"]]
        whole = [found["tokens_per_second"] for found in answered]
        each = [_inverse(found["times"].get("tpot", {}).get("p50")) for found in answered]
        _line(speed, [(x, y) for x, y in zip(each, whole, strict=True) if x], *line)
        _line(first, list(zip(whole, (found["times"]["ttft"]["p99"] for found in answered), strict=True)), *line)
        _line(goodput, [(found["answers_per_second"], found["goodput"]) for found in levels], *line)
    _name(speed, "tokens/s a user sees (p50)", "tokens/s of all users")
    _name(first, "tokens/s of all users", "time to first token, p99, ms")
    _name(goodput, "answers/s", "answers/s within the limits")
    speed.legend(frameon=False)
    return as_png(sheet)


def spread(report: Mapping[str, Any]) -> bytes:
    """How waiting is spread at each level: the share of requests, or of gaps, that waited at most so long."""
    sheet, panels = _panels(len(_CURVES))
    for panel, (kind, title) in zip(panels, _CURVES.items(), strict=True):
        longest = 0.0
        for colour, (name, levels) in zip(_colours(report), by_target(report).items(), strict=False):
            for depth, found in enumerate(levels):
                if kind in found["curves"]:
                    curve = found["curves"][kind]
                    shares = [i / (len(curve) - 1) for i in range(len(curve))]
                    panel.plot(
                        curve, shares, color=colour, alpha=1 / (1 + 0.6 * depth), label=name if not depth else None
                    )
                    longest = max(longest, found["times"][kind]["p99"]["value"])
        panel.set_xlim(0, _CEILING * longest or 1)
        _name(panel, title, "share that waited at most so long")
    panels[0].legend(frameon=False)
    return as_png(sheet)


def course(report: Mapping[str, Any]) -> bytes:
    """What waited, ran and held pages in the course of the first levels, a panel for each and each server."""
    shown = [(level["name"], name, found) for level in report["levels"] for name, found in level["results"].items()]
    sheet, panels = _panels(min(len(shown), _MOST_COURSES))
    for panel, (level, name, found) in zip(panels, shown, strict=False):
        line = found["timeline"]
        panel.stackplot(
            line["seconds"], line["running"], line["waiting"], labels=("running", "waiting"),
            colors=(COLOURS[0], COLOURS[1]), alpha=0.8,
        )  # fmt: skip
        _name(panel, "seconds", "requests")
        panel.set_title(f"{level}, {name}", loc="left", fontsize=11)
        if line.get("pages"):
            _beside(panel, line["seconds"], [math.nan if share is None else 100 * share for share in line["pages"]])
    panels[0].legend(frameon=False, loc="lower left")
    return as_png(sheet)


def _beside(panel: Any, seconds: Sequence[float], percent: Sequence[float]) -> None:
    """A line on a scale of its own, at the right."""
    right = panel.twinx()
    right.plot(seconds, percent, color=COLOURS[2])
    right.set_ylabel("pages held, %", color=COLOURS[2])
    right.set_ylim(bottom=0)
    right.spines["top"].set_visible(False)


def _series(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, list[Mapping[str, Any]]]]:
    """Colour, style, label and results of each line: of each server with users who wait, and with rates."""
    for place, name in enumerate(report["targets"]):
        for style, kind, waits in (("-", "users", True), ("--", "rates", False)):
            levels = [level for level in report["levels"] if bool(level["users"]) == waits and name in level["results"]]
            if levels:
                found = [level["results"][name] for level in levels]
                yield COLOURS[place % len(COLOURS)], style, f"{name}, {kind}", found


def by_target(report: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """{target: what it came to at each level}."""
    names = report["targets"]
    return {name: [level["results"][name] for level in report["levels"] if name in level["results"]] for name in names}


def _colours(report: Mapping[str, Any]) -> Sequence[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(report["targets"]))]


def _inverse(figure: Mapping[str, float] | None) -> dict[str, float] | None:
    """Milliseconds a token as tokens a second."""
    if not figure or not figure["low"]:
        return None
    return {"value": 1e3 / figure["value"], "low": 1e3 / figure["high"], "high": 1e3 / figure["low"]}


def _line(
    panel: Any, points: Sequence[tuple[Mapping[str, float], Mapping[str, float]]], name: str, colour: str, style: str
) -> None:
    if points:
        x, y = zip(*points, strict=True)
        panel.errorbar(
            [each["value"] for each in x], [each["value"] for each in y], xerr=_reach(x), yerr=_reach(y), color=colour,
            marker="o", linestyle=style, capsize=2, label=name,
        )  # fmt: skip


def _reach(figures: Sequence[Mapping[str, float]]) -> list[list[float]]:
    below = [max(0.0, each["value"] - each["low"]) for each in figures]
    return [below, [max(0.0, each["high"] - each["value"]) for each in figures]]


def _name(panel: Any, across: str, up: str) -> None:
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.set_ylim(bottom=0)
