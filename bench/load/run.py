"""A whole run: every target at every level, in turns, written after each so that what was measured is never lost."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...models.errors import SetupError
from ...models.progress import Progress
from ..energy import NOT_MEASURED
from ..resumed import begun, key_of, write_report
from .arrivals import Asked, Level
from .counted import not_counted, why_not_counted
from .door import OK, Door
from .drive import drive
from .figures import Limits, figures
from .prompts import Prompts
from .target import Opened, Target, opened

KIND = "load"
_WARM_SECONDS = 60.0
_REST_SECONDS = 0.5  # between two measurements, for what is still on its way

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What is measured. patience: seconds that open requests are given after a level."""

    targets: tuple[Target, ...]
    levels: tuple[Level, ...]
    out: Path
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    patience: float = 60.0
    warm_up: int = 4
    threads: int | None = None
    token: str = field(default="", repr=False)
    command: str = ""

    @property
    def key(self) -> str:
        """Of all that decides what is measured: a report of another plan is not gone on with."""
        said = [[asdict(target) for target in self.targets], [asdict(level) for level in self.levels]]
        return key_of(said, asdict(self.limits), self.seed, self.patience, self.warm_up, self.threads)


def run_load(plan: LoadPlan, machine: Callable[[], dict[str, Any]], progress: Progress) -> Report:
    """Measures, and writes the report after each measurement; goes on with one that was cut off.

    Levels follow one another, and within a level the targets, so that what disturbs the machine disturbs all of them. A
    target that is gone is measured no further. Raises AddressError where one is not there in the beginning.
    """
    report = begun(plan.out, plan.key) or {
        "kind": KIND, "command": plan.command, "plan": plan.key, "complete": False, "machine": machine(),
        "limits": {name: most for name, most in asdict(plan.limits).items() if most}, "seed": plan.seed,
        "targets": {target.name: {"place": target.place} for target in plan.targets}, "levels": [],
    }  # fmt: skip
    with ExitStack() as stack:
        doors = {each.name: stack.enter_context(opened(each, plan.token, plan.threads)) for each in plan.targets}
        for name, door in doors.items():
            report["targets"][name]["about"] = door.about
        prompts = {name: _warmed(door.make, plan) for name, door in doors.items()}
        gone: set[str] = set()
        todo = list(_left(plan, report))
        for done, (number, level, target) in enumerate(todo):
            progress("measurements", done, len(todo))
            if target.name not in gone:
                found = _measured(doors[target.name], level, prompts[target.name], plan, number)
                gone |= set() if found["complete"] else {target.name}
                _place(report, number, level)["results"][target.name] = found
                write_report(plan.out, report)
        progress("measurements", len(todo), len(todo))
    report["complete"] = all(len(level["results"]) == len(plan.targets) for level in report["levels"]) and not gone
    write_report(plan.out, report)
    return report


def _measured(target: Opened, level: Level, prompts: Prompts, plan: LoadPlan, number: int) -> dict[str, Any]:
    time.sleep(_REST_SECONDS)
    first = 1000 * plan.warm_up + 1_000_000 * number
    with closing(target.make()) as door:
        driven = drive(door, level, prompts, plan.patience, first, target.held)
    return figures(driven, plan.limits)


def _warmed(make: Callable[[], Door], plan: LoadPlan) -> Prompts:
    """Requests that are not counted; of the first it is learnt how long a token is."""
    prompts = Prompts(plan.seed)
    first = plan.levels[0].requests[0]

    def count(text: str) -> int | None:
        level = Level("warm-up", (Asked(first.prompt_tokens, 1, at=0.0),), 1.0)
        with closing(make()) as door:
            record = drive(door, level, lambda number, tokens: text, _WARM_SECONDS).records[0]
        if record.end != OK:
            why = f": {record.said}" if record.said else ""
            raise SetupError(f"a first request ended with {record.end}{why}; nothing was measured")
        return record.prompt_tokens

    prompts.fit(count)
    warm = tuple(Asked(first.prompt_tokens, first.new_tokens, at=0.0) for _ in range(plan.warm_up))
    with closing(make()) as door:
        drive(door, Level("warm-up", warm, 1.0), prompts, _WARM_SECONDS, first=1)
    return prompts


def _left(plan: LoadPlan, report: Report) -> Iterator[tuple[int, Level, Target]]:
    for number, level in enumerate(plan.levels):
        results = report["levels"][number]["results"] if number < len(report["levels"]) else {}
        for target in plan.targets:
            if not results.get(target.name, {}).get("complete"):
                yield number, level, target


def _place(report: Report, number: int, level: Level) -> dict[str, Any]:
    """Where the results of a level stand."""
    levels: list[dict[str, Any]] = report["levels"]
    if number == len(levels):
        offered = len(level.requests) / level.seconds if not level.users else None
        levels.append({"name": level.name, "users": level.users, "offered_per_second": offered, "results": {}})
    return levels[number]


def rows(report: Report) -> tuple[list[str], list[list[str]]]:
    """The report as a table, a row for each level and target; what does not count says so and has no figures."""
    head = ["load", "server", "answered", "tokens/s", "goodput/s", "TTFT ms p50", "p99", "ITL p50", "p99", "TPOT p50"]
    return head, [
        [level["name"], name, *(_numbers(found) if not (why := why_not_counted(found)) else _told(why, len(head) - 2))]
        for level in report["levels"] for name, found in level["results"].items()
    ]  # fmt: skip


def _told(why: str, cells: int) -> list[str]:
    return [f"not counted: {why}", *[""] * (cells - 1)]


def _numbers(found: dict[str, Any]) -> list[str]:
    times = found["times"]
    wanted = (("ttft", "p50"), ("ttft", "p99"), ("itl", "p50"), ("itl", "p99"), ("tpot", "p50"))
    values = [found[name]["value"] for name in ("tokens_per_second", "goodput")]
    values += [times[name][share]["value"] if name in times else None for name, share in wanted]
    shown = [f"{value:,.4g}" if value is not None else "" for value in values]
    return [f"{found['answered']} of {found['requests']}", *shown]


def notes(report: Report) -> Iterator[str]:
    """What one must know before one believes the table."""
    for level in report["levels"]:
        for name, found in level["results"].items():
            yield from (f"{level['name']}, {name}: {said}" for said in _said(found))
    if any(not_counted(report)):
        yield "what is not counted stands in the file alone: measure it again with another --out"
    if all(found["joules"] is None for level in report["levels"] for found in level["results"].values()):
        yield f"energy: {NOT_MEASURED}"
    if not report["complete"]:
        yield "the report is not complete: the same command goes on with it"


def _said(found: dict[str, Any]) -> Iterator[str]:
    why = why_not_counted(found)
    if why:
        yield f"not counted: {why}"
    if found["errors"]:
        yield "not answered: " + ", ".join(f"{count} {name}" for name, count in found["errors"].items())
    if not why and found["joules"] is not None and found["tokens"]:
        yield f"{found['joules'] / found['tokens']:.3g} J a token, of all that this machine spent meanwhile"
