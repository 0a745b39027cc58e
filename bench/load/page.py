"""A report on load as one page: a table, three pictures, and what one must know."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluate.pages import render
from ...models.extras import NO_PICTURE, can_draw
from ...models.files import write_whole
from . import picture
from .run import notes, rows

Section = dict[str, Any]
TERMS = (
    "TTFT is from when a request was meant to leave to its first token, ITL between two messages with tokens, TPOT the "
    "mean after the first token; times are of the requests that were answered, in milliseconds, with 95 % intervals of "
    "requests drawn anew in the pictures."
)


def write_page(file: Path, report: Mapping[str, Any]) -> None:
    """Writes the page."""
    title = f"Under load: {', '.join(report['targets'])}"
    page = render("sections", title, sections=list(sections(report)), command=report["command"], made=made(report))
    write_whole(file, page.encode())


def sections(report: Mapping[str, Any]) -> Iterator[Section]:
    """The page's parts; without matplotlib, without pictures."""
    limits = ", ".join(f"{name} at most {1e3 * most:g} ms" for name, most in report["limits"].items())
    said = [*notes(dict(report)), TERMS, f"Goodput counts answers with {limits or 'no limit: every answer counts'}."]
    drawn = can_draw() and any(found["answered"] for level in report["levels"] for found in level["results"].values())
    yield section("What was delivered", [*said, *([] if can_draw() else [NO_PICTURE])],
                  rows(dict(report)), [picture.overview(report)] if drawn else [])  # fmt: skip
    tiers = tier_rows(report)
    if tiers[1]:
        yield section("By tier", [], tiers)
    if drawn:
        yield section("How waiting is spread", ["Paler lines are later levels."], None, [picture.spread(report)])
        yield section("In the course of each level", [], None, [picture.course(report)])


def section(title: str, notes: Sequence[str], table: Any = None, pictures: Sequence[bytes] = ()) -> Section:
    """One part of a page of sections."""
    return {"title": title, "notes": notes, "table": table, "pictures": pictures}


def tier_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
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


def made(report: Mapping[str, Any]) -> list[str]:
    """On what it was measured."""
    targets = report["targets"].items()
    said = (" ".join([f"{name}: {each['place']}", each.get("about", "")]).strip() for name, each in targets)
    return [made_on(report["machine"]), *said]


def made_on(machine: Mapping[str, Any]) -> str:
    """Device, versions and commit, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['device']}, {machine['processors']} processors; {versions}; commit {machine['commit']}"
