"""The most memory that each stage of a recipe takes, and how long, in a process of its own; on Linux.

    python -m moesaic.bench.stage_memory smollm2 --recipe moe --out out/memory.json

Nothing is taken from earlier runs. Memory is what the process holds (VmHWM), Python and torch included; they are
shown by themselves too.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..compress.recipe import read_recipe
from ..compress.run import Run
from ..evaluate.provenance import command_line, provenance
from ..kernels.native import native
from ..models.checkpoint import open_checkpoint
from ..models.errors import SetupError
from ..models.files import write_files
from ..models.threads import choose_threads, torch_threads

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Part:
    """peak: bytes at its highest, beyond what Python and torch had taken at the start."""

    what: str
    seconds: float
    peak: int


class Watch:
    """A progress callback that notes the peak of each part of the work."""

    def __init__(self) -> None:
        self.parts, self.at_start = list[Part](), resident("VmRSS")
        self._what, self._began = "before the first stage", time.monotonic()
        forget_peak()

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self.end()
            self._what = what

    def end(self) -> None:
        """Ends the part that is under way, whose peak counts from the end of the one before."""
        now = time.monotonic()
        part = Part(self._what, round(now - self._began, 1), resident("VmHWM") - self.at_start)
        sys.stderr.write(f"{part.seconds:7.1f} s {part.peak >> 20:6,} MiB  {part.what}\n")
        self.parts.append(part)
        self._began = now
        forget_peak()


def measure(model: str, recipe: str) -> dict[str, object]:
    """Runs the stages of a recipe, scoring nothing. Raises SetupError as `moesaic compress` does."""
    source, wanted = open_checkpoint(model), read_recipe(recipe)
    native()  # built before anything is timed
    watch = Watch()
    with torch_threads(choose_threads(None, source.weight_bytes)):
        run = Run(source, wanted, watch)
        with tempfile.TemporaryDirectory() as folder:
            os.environ["MOESAIC_CACHE"] = folder
            run.checkpoint()
        watch.end()
        declared = run.estimates[-1].memory
        threads = torch.get_num_threads()
    return {
        "model": Path(model).name, "recipe": wanted.model_dump(), "threads": threads,
        "model_bytes": source.weight_bytes, "python_and_torch": watch.at_start,
        "calibration_declares": declared, "calibration_tokens": run.calibration_tokens,
        "peak": max(part.peak for part in watch.parts), "parts": [asdict(part) for part in watch.parts],
        "provenance": provenance(),
    }  # fmt: skip


def forget_peak() -> None:
    """VmHWM begins anew."""
    _RESET.write_text("5")


def can_watch() -> bool:
    """Whether the system tells the peak of a process."""
    return _RESET.exists()


def resident(field: str) -> int:
    """Bytes of this process, by /proc/self/status."""
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].split()[0]) * 1024


def main() -> None:
    """Prints the figures as JSON, a line on standard error as each part ends."""
    parser = argparse.ArgumentParser(description="the most memory that each stage of a recipe takes")
    parser.add_argument("model", help="model directory or short name")
    parser.add_argument("--recipe", default="moe")
    parser.add_argument("--out", type=Path, help="a JSON file")
    args = parser.parse_args()
    if not can_watch():
        sys.exit("stage_memory: this needs Linux, which tells the peak of a process")
    try:
        found = json.dumps({"command": command_line(args.out), **measure(args.model, args.recipe)}, indent=1) + "\n"
    except SetupError as error:
        sys.exit(f"stage_memory: {error}")
    sys.stdout.write(found)
    if args.out:
        write_files(args.out.parent, {args.out.name: found.encode()})


if __name__ == "__main__":
    main()
