"""Servers under load: a section of a report that `moesaic bench serve` wrote."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..load import picture
from ..load.counted import counted
from ..load.run import notes, rows
from ..published.text import goodput_limits
from .chart import Chart, Drawn, Picture, Point, Series, digest_of
from .section import Section, Table, machine_line

Report = Mapping[str, Any]
_SHOWN = (
    ("overview", "What is delivered, and how long one waits", picture.overview),
    ("spread", "How waiting is spread; paler lines are later levels", picture.spread),
    ("course", "Running, waiting and pages held in the course of each level", picture.course),
)
_OFFERED = (
    ("goodput", "goodput", "Goodput against offered load", "answers/s within the limits"),
    ("answers", "answers_per_second", "Answers against offered load", "answers/s"),
)
_SAME_SECONDS = (
    "Offered load is of the seconds over which requests were meant to leave, answers a second of those until the last "
    "answer: where the last request left early, there are more of them."
)
_TERMS = (
    "TTFT is from when a request was meant to leave to its first token, ITL between two messages with tokens, TPOT the "
    "mean after the first token; times are of the requests that were answered, in milliseconds, with 95 % intervals in "
    "the pictures."
)


def under_load(report: Report, name: str, file: str) -> Section:
    """One report, as it stands in a file; what does not count is told in its tables alone."""
    shown = counted(report)
    tiers, offered = _by_tier(shown), list(_against_offered(shown, name))
    return Section(
        name, f"A server under load: {', '.join(report['targets'])}",
        [f"Requests leave when they are meant to, whatever was answered. {_TERMS}",
         f"Goodput counts answers with {goodput_limits(report['limits'])}."],
        [*_pictures(shown, name), *offered],
        [Table("By level and server", rows(dict(report))), *([Table("By tier", tiers)] if tiers[1] else [])],
        [*notes(dict(report)), *([_SAME_SECONDS] if offered else [])],
        report["command"], [f"{file}: {line}" for line in _made(report)],
    )  # fmt: skip


def _pictures(report: Report, name: str) -> Iterator[Drawn]:
    if not any(found["answered"] for level in report["levels"] for found in level["results"].values()):
        return
    said = "; ".join(_seen(report))
    for kind, title, draw in _SHOWN:
        digest = digest_of([kind, report])
        yield Drawn(f"{name}-{kind}", title, f"{title}. {said}.", digest, partial(draw, report))


def _against_offered(report: Report, name: str) -> Iterator[Picture]:
    """Open loops alone: whoever waits for answers offers what is delivered."""
    open_loops = [level for level in report["levels"] if level.get("offered_per_second")]
    levels = sorted(open_loops, key=lambda level: float(level["offered_per_second"]))
    for kind, figure, title, up in _OFFERED:
        lines = [
            Series(target, points, colour)
            for colour, target in enumerate(report["targets"])
            if (points := _offered_points(levels, target, figure))
        ]
        if lines:
            across = "offered, requests/s"
            yield Chart(f"{name}-offered-{kind}", title, across, up, tuple(lines), from_zero=True)


def _offered_points(levels: Sequence[Report], target: str, figure: str) -> tuple[Point, ...]:
    """Of a target, by level."""
    results = [(level["offered_per_second"], level["results"].get(target)) for level in levels]
    return tuple(
        Point(offered, found[figure]["value"], found[figure]["low"], found[figure]["high"])
        for offered, found in results
        if found
    )


def _seen(report: Report) -> Iterator[str]:
    for level in report["levels"]:
        for name, found in level["results"].items():
            rate = f"{found['tokens_per_second']['value']:.4g} tokens/s"
            waits = f", first token at p99 {found['times']['ttft']['p99']['value']:.4g} ms" if found["times"] else ""
            yield f"{level['name']}, {name}: {rate}{waits}"


def _by_tier(report: Report) -> tuple[list[str], list[list[str]]]:
    """A row for each level, server and tier."""
    head = ["load", "server", "tier", "answered", "TTFT ms p50", "p99", "TPOT p50", "p99"]
    found = [
        (level["name"], name, results["tiers"])
        for level in report["levels"]
        for name, results in level["results"].items()
    ]
    return head, [
        [level, name, tier, str(of_tier["answered"]), *_tier_numbers(of_tier)]
        for level, name, tiers in found for tier, of_tier in tiers.items()
    ]  # fmt: skip


def _tier_numbers(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{found[kind][share]['value']:,.4g}" if kind in found else ""
        for kind in ("ttft", "tpot")
        for share in ("p50", "p99")
    ]


def _made(report: Report) -> list[str]:
    """On what it was measured."""
    targets = [f"{name}: {each['place']} {each.get('about', '')}" for name, each in report["targets"].items()]
    return [machine_line(report["machine"]), *map(str.rstrip, targets)]
