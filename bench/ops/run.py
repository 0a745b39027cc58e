"""Every operation beside its peers, in several sittings, as ratios with their intervals.

A sitting is a process (sitting.py). Its ratios are medians over rounds in which both had a turn; between sittings their
logarithms are taken as normal, and the interval is Student's of their mean: what differs from one run to the next is in
it, so that `moesaic bench compare` of two runs sees noise as noise.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from ...models.bounds import Bound
from ...models.errors import SetupError
from ...models.progress import Progress
from ...models.suggestion import suggestion
from ..figure import Figure
from ..resumed import begun, key_of, write_report
from .sitting import operations

KIND = "ops"
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # 97.5 %
SITTINGS = Bound(2, max(STUDENT) + 1, way_out="an interval needs two, and ten are enough")
Report = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OpsPlan:
    """only: some operations by name, empty for all. options: of each sitting, beside what is asked for here."""

    out: Path
    sittings: int = 5
    quick: bool = False
    only: tuple[str, ...] = ()
    command: str = ""
    module: str = f"{__package__}.sitting"
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Of all that decides what is measured."""
        return key_of(self.sittings, self.quick, self.only, self.options)

    def check(self) -> None:
        """Raises SetupError for what makes no sense."""
        SITTINGS.check("sittings", self.sittings)
        for name in self.only:
            if name not in operations():
                raise SetupError(f"there is no operation {name!r}; {suggestion(name, [*operations()])}")


def run_ops(plan: OpsPlan, machine: Callable[[], dict[str, Any]], progress: Progress) -> Report:
    """Measures, and writes the report after each sitting; goes on with one that was cut off.

    Raises SetupError for what makes no sense, and where a sitting ends with an error.
    """
    plan.check()
    report = begun(plan.out, plan.key) or {
        "kind": KIND, "command": plan.command, "plan": plan.key, "complete": False, "machine": machine(),
        "sittings": [], "ops": [],
    }  # fmt: skip
    while len(report["sittings"]) < plan.sittings:
        report["sittings"].append(list(_sitting(plan, len(report["sittings"]), progress)))
        report["ops"] = told(report["sittings"])
        write_report(plan.out, report)
    report["complete"] = True
    write_report(plan.out, report)
    return report


def _sitting(plan: OpsPlan, number: int, progress: Progress) -> Iterator[Row]:
    words = [*(["--quick"] if plan.quick else []), *(["--only", *plan.only] if plan.only else []), *plan.options]
    command = [sys.executable, "-m", plan.module, *words]
    what, done, total = f"operations, sitting {number + 1} of {plan.sittings}", 0, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                row = json.loads(line)
                if "points" in row:
                    total = row["points"]
                else:
                    done += 1
                    yield row
                progress(what, done, total)
            said = process.stderr.read() if process.stderr else ""
        finally:
            process.kill()  # one that has ended knows nothing of it
    if process.returncode:
        last = (said.strip() or "no message").splitlines()[-1]
        raise SetupError(f"sitting {number + 1} ended with status {process.returncode}: {last}")


def told(sittings: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """By operation, its points: figures of all sittings together; an interval from the second on."""
    ops: dict[str, list[dict[str, Any]]] = {}
    for rows in zip(*sittings, strict=True):
        ops.setdefault(rows[0]["op"], []).append(_point(rows))
    return [{"name": name, "points": points} for name, points in ops.items()]


def _point(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    names = {name: [row["microseconds"][name] for row in rows] for name in first["microseconds"]}
    return {
        "name": first["point"], "ours": first["ours"], "bytes": first["bytes"], "flops": first["flops"],
        "limit_microseconds": round(median(row["limit_microseconds"] for row in rows), 3),
        "microseconds": {name: round(median(values), 3) for name, values in names.items()},
        "beside": {
            name: ratio_of_sittings([row["ratios"][name] for row in rows]).as_json() for name in first["ratios"]
        },
        "skipped": first["skipped"],
    }  # fmt: skip


def ratio_of_sittings(ratios: Sequence[float]) -> Figure:
    """How many times as long ours took. Of one sitting there is no interval yet: it is all that there may be."""
    logs = [math.log(ratio) for ratio in ratios]
    middle = fmean(logs)
    reach = STUDENT[len(logs) - 1] * stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return Figure(math.exp(middle), math.exp(middle - min(reach, 100)), math.exp(middle + min(reach, 100)), "x", "less")


def rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for each point and peer."""
    head = ["operation", "shape", "us", "limit us", "beside", "us", "times as long", "95 %"]
    lines = []
    for op in report["ops"]:
        for point in op["points"]:
            for peer, found in point["beside"].items():
                ours, theirs = (f"{point['microseconds'][name]:,.1f}" for name in (point["ours"], peer))
                lines.append([
                    op["name"], point["name"], ours, f"{point['limit_microseconds']:,.1f}", peer, theirs,
                    f"{found['value']:.2f}", f"{found['low']:.2f} to {found['high']:.2f}",
                ])  # fmt: skip
    return head, lines


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What one must know to read the table, and who was not there."""
    yield (
        f"one thread, {len(report['sittings'])} sittings; limit: what a plain read of the bytes takes; above 1 ours "
        "took longer"
    )
    missing: dict[str, list[str]] = {}
    for op in report["ops"]:
        for point in op["points"]:
            for name, why in point["skipped"].items():
                missing.setdefault(f"{name}: {why}", []).append(op["name"])
    for said, ops in missing.items():
        yield f"not measured, {', '.join(dict.fromkeys(ops))}, {said}"
    if not report["complete"]:
        yield "the report is not complete: the same command goes on with it"
