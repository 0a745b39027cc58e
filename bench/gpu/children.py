"""One contestant a process: what crashes or hangs, or ruins its CUDA context, takes no other's figures with it."""

import subprocess
import sys
import time
from collections.abc import Mapping

from .section import Plan

MARGIN = 4.0  # seconds that a section keeps to end in order


def each_in_a_process(plan: Plan, module: str, limits: Mapping[str, float]) -> None:
    """`python -m module NAME` for each in turn, for so many seconds at most; rows say of any that it crashed or hung.

    The next one starts beside the one that measures, so that its imports cost no time, and waits for a line of input.
    """
    waiting: subprocess.Popen[str] | None = None
    names = list(limits)
    for i, name in enumerate(names):
        seconds = min(limits[name], plan.left - MARGIN)
        if seconds <= 0:
            plan.rows.add(contestant=name, skipped="the section's time was over")
            continue
        process = waiting or _start(plan, module, name)
        waiting = _start(plan, module, names[i + 1]) if i + 1 < len(names) else None
        said = _finished(process, seconds)
        told = [row for row in plan.rows if row.get("contestant") == name and "failed" in row]
        if said and not told:
            plan.rows.add(contestant=name, failed=said)
    if waiting:
        waiting.kill()
        waiting.wait()


def _start(plan: Plan, module: str, name: str) -> "subprocess.Popen[str]":
    """Starts a contestant in the section's own process group, so that it ends with it."""
    options = ["--rows", str(plan.rows.file), *(["--dry"] if plan.dry else [])]
    return subprocess.Popen([sys.executable, "-m", module, name, *options], stdin=subprocess.PIPE, text=True)


def _finished(process: "subprocess.Popen[str]", seconds: float) -> str:
    """What to say of a contestant that did not end as it should; nothing where it did."""
    began = time.monotonic()
    try:
        # it is told a little less than it has, so that it ends in order
        process.communicate(f"{max(seconds - MARGIN, 0.5)}\n", timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"did not end in {time.monotonic() - began:.0f} s"
    return f"ended with status {process.returncode}" if process.returncode else ""
