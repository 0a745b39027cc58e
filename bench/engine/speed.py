"""Decode speed of two checkouts beside each other, in one run and in turns: is a commit as fast as the one before?

    python -m moesaic.bench.engine.speed OUT.json --before FOLDER --now FOLDER [--model NAME] [--tier T]

A FOLDER holds a link or folder `moesaic` that is one of the checkouts. Each has a process of its own, with its model
loaded once; they are asked one at a time.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from ...evaluate.provenance import command_line
from ...models.files import write_whole
from ..machine import machine_facts

BATCHES = (1, 4, 8)
_NEW = 48
_CHILD = """
import json, sys, time
from moesaic import LLM
from moesaic.engine.options import EngineOptions
llm = LLM(sys.argv[1], EngineOptions(threads=int(sys.argv[2]), max_context=1024))
prompts = [[100 + i] + list(range(500, 516)) for i in range(8)]
for line in sys.stdin:
    batch = int(line)
    began = time.perf_counter()
    settings = {"max_new_tokens": int(sys.argv[3]), "temperature": 0, "ignore_eos": True, "tier": sys.argv[4]}
    done = llm.generate(prompts[:batch], **settings)
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, [list(each.token_ids) for each in done]]), flush=True)
"""


class _Contestant:
    def __init__(self, folder: str, model: str, threads: int, tier: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, model, str(threads), str(_NEW), tier],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": folder}, cwd="/",
        )  # fmt: skip
        self.seconds: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        self.tokens: dict[int, Any] = {}

    def run(self, batch: int, counted: bool) -> None:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(f"{batch}\n")
        self._process.stdin.flush()
        seconds, self.tokens[batch] = json.loads(self._process.stdout.readline())
        if counted:
            self.seconds[batch].append(seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def compared(before: str, now: str, model: str, threads: int, tier: str, rounds: int) -> dict[str, Any]:
    """Tokens per second of each batch, median and best of the rounds, and the ratio of now to before."""
    both = {"before": _Contestant(before, model, threads, tier), "now": _Contestant(now, model, threads, tier)}
    try:
        for turn in range(rounds + 1):
            for batch in BATCHES:
                for each in both.values():
                    each.run(batch, counted=turn > 0)
    finally:
        for each in both.values():
            each.end()
    found: dict[str, Any] = {"model": model, "threads": threads, "tier": tier, "new_tokens": _NEW, "rounds": rounds}
    for batch in BATCHES:
        rates = {name: sorted(batch * _NEW / s for s in each.seconds[batch]) for name, each in both.items()}
        found[f"batch_{batch}"] = {
            **{f"{name}_tokens_per_second": round(median(rate), 2) for name, rate in rates.items()},
            **{f"{name}_best": round(rate[-1], 2) for name, rate in rates.items()},
            "ratio": round(median(rates["now"]) / median(rates["before"]), 3),
            "same_tokens": both["before"].tokens[batch] == both["now"].tokens[batch],
        }
    return found


def main() -> int:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", required=True, metavar="FOLDER")
    parser.add_argument("--now", required=True, metavar="FOLDER")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tier", default="full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    found = compared(args.before, args.now, args.model, args.threads, args.tier, args.rounds)
    report = {"command": command_line(args.out), "machine": machine_facts(), **found}
    write_whole(args.out, (json.dumps(report, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
