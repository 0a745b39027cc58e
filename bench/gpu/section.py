"""What every section of the GPU script begins with: where its rows go, how long it has, and how small it is to be."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .rows import Row, Rows

TAIL = 3000  # characters of what went wrong


@dataclass(frozen=True)
class Plan:
    """deadline: on the monotonic clock. dry: toy sizes, on a CPU. name: of the one contestant wanted, or none."""

    rows: Rows
    deadline: float
    dry: bool
    name: str = ""

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.deadline - time.monotonic()


def run_section(measure: Callable[[Plan], None], arguments: Sequence[str] | None = None) -> int:
    """Runs `measure` as the command line says; what it raises becomes a row. Status 1 if a row says `failed`."""
    plan = _plan(arguments)
    try:
        measure(plan)
    except Exception as error:
        plan.rows.add(**of_plan(plan), failed=sentence(error), traceback=traceback.format_exc()[-TAIL:])
        traceback.print_exc()
    mine = [row for row in plan.rows if not plan.name or row.get("contestant") == plan.name]
    return int(any("failed" in row for row in mine))


def of_plan(plan: Plan) -> Row:
    return {"contestant": plan.name} if plan.name else {}


def attempt(plan: Plan, call: Callable[[], Row], **what: Any) -> None:
    """A row of `what` and what the call finds; what it raises is in the row, and the next one has its turn."""
    try:
        plan.rows.add(**what, **call())
    except Exception as error:
        plan.rows.add(**what, failed=sentence(error), traceback=traceback.format_exc()[-TAIL:])


def found_before(plan: Plan, section: str) -> list[Row]:
    """The rows of a section that has ended; none where it was not run."""
    file = next(plan.rows.file.parent.glob(f"*-{section}.json"), None)
    rows: list[Row] = json.loads(file.read_text())["rows"] if file else []
    return rows


def sentence(error: Exception) -> str:
    """Its type and its first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="?", default="")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args(arguments)
    # whoever started a contestant lets it wait for its turn, once all is imported, and then says how long it has
    seconds = float(sys.stdin.readline()) if args.name else args.seconds
    return Plan(Rows(args.rows), time.monotonic() + seconds, args.dry, args.name)
