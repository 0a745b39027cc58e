"""Two reports beside each other: which figures differ by more than both may as well have been by chance.

Wherever a report has a figure with its interval, so may another one of the same form. The logarithm of the ratio has
about the variance of both intervals added up; so has the difference, where one may be zero. Figures without an end or a
width to their intervals are left out. Where both tell what each document brought, and of the same documents, documents
are compared one by one, which sees far less. Of many figures some would differ by chance, so that all of them are
judged together (Holm 1979), at 5 %.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ..models.errors import SetupError
from .figure import Figure
from .load.counted import not_counted, why_not_counted

_LEVEL, _TWO_SIDED = 0.05, NormalDist().inv_cdf(0.975)
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Change:
    """One figure, before and after. sign: +1 it grew, -1 it fell, 0 neither is shown."""

    name: str
    before: Figure
    after: Figure
    chance: float  # that as much would be seen of two equal ones
    sign: int = 0

    @property
    def ratio(self) -> float:
        return max(self.after.value, _SMALLEST) / max(self.before.value, _SMALLEST)

    @property
    def worse(self) -> bool:
        return bool(self.sign) and (self.sign > 0) == (self.before.better == "less")


def read_report(file: Path) -> dict[str, Any]:
    """A JSON report. Raises SetupError for what is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not (any(_figures(found)) or any(not_counted(found))):
        raise SetupError(f"{file}: is no report with figures and their intervals, as `moesaic bench serve` writes")
    return found


def warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What makes two reports hard to compare, and which results are left out."""
    for name in ("complete", "machine", "command"):
        ours, theirs = before.get(name), after.get(name)
        if name == "complete" and not (ours is not False and theirs is not False):
            yield "a report is not complete"
        elif name == "machine" and _device(ours) != _device(theirs):
            yield f"two machines: {_device(ours)} and {_device(theirs)}"
        elif name == "command" and ours != theirs:
            yield f"two commands: {ours} and {theirs}"
    for when, report in (("before", before), ("after", after)):
        yield from (f"left out, {level}, {name} {when}: {why}" for level, name, why in not_counted(report))
    few = [name for name, pair in _pairs(before, after).items() if not _is_judged(*pair)]
    if few:
        more = f" and {len(few) - 1} more" if few[1:] else ""
        yield f"left out, of too few requests to tell a change from chance: {few[0]}{more}"


def compared(before: Mapping[str, Any], after: Mapping[str, Any], least: float) -> list[Change]:
    """All figures that count and that both have. Raises SetupError where there are none.

    least: a share below which a change is none; of what is compared item by item, every change counts.
    """
    both = {name: pair for name, pair in _pairs(before, after).items() if _is_judged(*pair)}
    if not both:
        raise SetupError("the two reports have no figure in common that counts")
    changes = sorted((_change(name, *pair) for name, pair in both.items()), key=lambda each: each.chance)
    found, going = [], True
    for rank, change in enumerate(changes):
        going = going and change.chance <= _LEVEL / (len(changes) - rank)
        large = bool(change.before.items) or abs(math.log(change.ratio)) >= math.log1p(least)
        sign = (1 if change.ratio > 1 else -1) if going and large else 0
        found.append(Change(change.name, change.before, change.after, change.chance, sign))
    return found


def told(changes: Sequence[Change]) -> dict[str, Any]:
    """What comparing says, as a report keeps it."""
    shown = [change for change in changes if change.sign]
    return {
        "figures": len(changes),
        "worse": sorted(change.name for change in shown if change.worse),
        "better": sorted(change.name for change in shown if not change.worse),
        "ratios": {change.name: round(change.ratio, 4) for change in changes},
    }


def rows(changes: Sequence[Change]) -> tuple[list[str], list[list[str]]]:
    """A row for each, the largest changes first."""
    ordered = sorted(changes, key=lambda each: -abs(math.log(each.ratio)))
    return ["figure", "before", "after", "ratio", ""], [
        [each.name, _shown(each.before), _shown(each.after), f"{each.ratio:.3f}", "worse" if each.worse else "better"]
        for each in ordered
    ]


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Figure, Figure]]:
    ours, theirs = dict(_figures(before)), dict(_figures(after))
    return {name: (ours[name], theirs[name]) for name in ours if name in theirs}


def _is_judged(before: Figure, after: Figure) -> bool:
    """Both tell what they may as well have been: their intervals have ends, and some width."""
    return _is_paired(before, after) or (_tells(before) and _tells(after))


def _is_paired(before: Figure, after: Figure) -> bool:
    return bool(before.items) and [whole for _, whole in before.items] == [whole for _, whole in after.items]


def _tells(figure: Figure) -> bool:
    return figure.high > figure.low and not figure.of_few


def _change(name: str, before: Figure, after: Figure) -> Change:
    if _is_paired(before, after):
        return Change(name, before, after, _paired_chance(before, after))
    scale = float if min(before.low, after.low) <= 0 else math.log
    spread = math.hypot(*((scale(each.high) - scale(each.low)) / (2 * _TWO_SIDED) for each in (before, after)))
    distance = abs(scale(after.value) - scale(before.value))
    return Change(name, before, after, 2 * NormalDist().cdf(-distance / spread))


def _paired_chance(before: Figure, after: Figure) -> float:
    """Of the difference of two means over the same items, by its standard error."""
    items = zip(before.items, after.items, strict=True)
    gained = [(theirs - ours, whole) for (ours, whole), (theirs, _) in items]
    mean = sum(each for each, _ in gained) / sum(whole for _, whole in gained)
    rest = math.sqrt(sum((each - mean * whole) ** 2 for each, whole in gained)) / sum(whole for _, whole in gained)
    return 2 * NormalDist().cdf(-abs(mean) / rest) if rest else float(mean == 0)


def _figures(found: Any, path: str = "") -> Iterator[tuple[str, Figure]]:
    figure = Figure.of_json(found)
    if figure:
        yield path, figure
    elif isinstance(found, Mapping):
        for name, value in found.items() if not why_not_counted(found) else ():
            yield from _figures(value, f"{path} {name}".strip())
    elif isinstance(found, list):
        for i, value in enumerate(found):
            named = value.get("name", i) if isinstance(value, Mapping) else i
            yield from _figures(value, f"{path} {named}".strip())


def _device(machine: Any) -> Any:
    return machine.get("device") if isinstance(machine, Mapping) else machine


def _shown(figure: Figure) -> str:
    return f"{figure.value:,.4g} ({figure.low:,.4g} to {figure.high:,.4g}) {figure.unit}".rstrip()
