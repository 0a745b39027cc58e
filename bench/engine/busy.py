"""Decoding while other programs want the processors: `moesaic run`, quiet and beside a busy loop for each of them.

    python -m moesaic.bench.engine.busy OUT.json [--model NAME]

With threads left open, their number follows the load; with `--threads` it stays, which is what is compared.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from ...evaluate.provenance import command_line
from ...models.files import write_whole
from ..machine import machine_facts

_NEW, _ROUNDS, _FIXED_ROUNDS = 96, 3, 1  # what does not follow the load takes minutes beside busy loops
_SPEED = re.compile(r"([\d.e+]+) tokens/s")


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing as fast as they can."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for each in loops:
            each.kill()
            each.wait()


def run_speed(model: str, threads: int | None) -> float:
    """Tokens per second that `moesaic run` says of itself."""
    given = [] if threads is None else ["--threads", str(threads)]
    words = ["run", model, "The history of the horse", "--max-new-tokens", str(_NEW), *given]
    done = subprocess.run(
        [sys.executable, "-m", "moesaic.cli.main", *words], capture_output=True, text=True, check=True
    )
    found = _SPEED.search(done.stderr)
    if found is None:
        raise RuntimeError(f"no speed in {done.stderr[-200:]!r}")
    return float(found[1])


def measured(model: str) -> dict[str, Any]:
    """Medians of some runs, each way, and what is left of the quiet speed."""
    processors = os.cpu_count() or 1
    found: dict[str, Any] = {"model": model, "busy_loops": processors, "new_tokens": _NEW}
    for name, threads in (("by_load", None), (f"{processors}_threads", processors), ("1_thread", 1)):
        rounds = _ROUNDS if threads is None else _FIXED_ROUNDS
        quiet = [run_speed(model, threads) for _ in range(rounds)]
        with busy_loops(processors):
            busy = [run_speed(model, threads) for _ in range(rounds)]
        found[name] = {
            "quiet_tokens_per_second": median(quiet), "busy_tokens_per_second": median(busy),
            "quiet": quiet, "busy": busy, "kept": median(busy) / median(quiet),
        }  # fmt: skip
    return found


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    args = parser.parse_args()
    found = {"command": command_line(args.out), "machine": machine_facts(), **measured(args.model)}
    write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
