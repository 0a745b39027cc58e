"""How long a model takes to load, beside reading its file, and the most memory that it takes meanwhile; on Linux.

    python -m moesaic.bench.loading --gigabytes 2 --out out/loading.json

Random bf16 weights in the layers of Llama 3.2 1B. Each measurement is a process of its own; the file is in the page
cache for some of them, and put out of it for others.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from ..evaluate.provenance import command_line, provenance
from ..models.checkpoint import load_transformer, open_checkpoint
from ..models.errors import SetupError
from ..models.files import write_files
from .shapes import SHAPES, write_random_model
from .stage_memory import can_watch, forget_peak, resident

_SHAPE = "llama-3.2-1b"
_STEP = 8 << 20  # bytes that are read at a time into memory of their own, as a loader does


def read_alone(folder: Path) -> None:
    """Reads all weights into memory, and does nothing else with them."""
    for file in open_checkpoint(folder).files:
        held = torch.empty(file.stat().st_size, dtype=torch.uint8).numpy()
        with file.open("rb", buffering=0) as stream:
            for at in range(0, len(held), _STEP):
                stream.readinto(held[at : at + _STEP].data)


def load_whole(folder: Path) -> None:
    load_transformer(open_checkpoint(folder), torch.device("cpu"))


_WAYS = {"read": read_alone, "load": load_whole}


def one(way: str, folder: Path) -> dict[str, float]:
    """Seconds of one way in this process, and its peak in bytes beyond what Python and torch hold."""
    torch.set_num_threads(1)
    held = resident("VmRSS")
    forget_peak()
    began = time.perf_counter()
    _WAYS[way](folder)
    return {"seconds": time.perf_counter() - began, "peak": resident("VmHWM") - held}


def measured(folder: Path, rounds: int) -> dict[str, object]:
    """Medians of each way, with and without the page cache, taking turns."""
    num_bytes, found = open_checkpoint(folder).weight_bytes, dict[tuple[str, str], list[dict[str, float]]]()
    for _ in range(rounds):
        for cache in ("cached", "from disk"):
            for way in _WAYS:
                if cache == "from disk":
                    _evict(open_checkpoint(folder).files)
                found.setdefault((cache, way), []).append(_in_a_process(way, folder))
    seconds = {key: median(each["seconds"] for each in values) for key, values in found.items()}
    return {
        "weight_bytes": num_bytes,
        "rounds": rounds,
        **{
            cache.replace(" ", "_"): {
                "read_seconds": round(seconds[cache, "read"], 3),
                "load_seconds": round(seconds[cache, "load"], 3),
                "speed_of_reading": round(seconds[cache, "read"] / seconds[cache, "load"], 3),
            }
            for cache in ("cached", "from disk")
        },
        "peak_of_weights": round(
            max(each["peak"] for key in found if key[1] == "load" for each in found[key]) / num_bytes, 3
        ),
        "provenance": provenance(),
    }


def _in_a_process(way: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", f"{__package__}.loading", "--way", way, str(folder)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _evict(files: tuple[Path, ...]) -> None:
    """Puts files out of the page cache."""
    for file in files:
        with file.open("rb") as stream:
            os.fdatasync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_synthetic(folder: Path, gigabytes: float) -> None:
    """Random weights of about so many bytes: as many layers of the shape as they take."""
    shape = dict(SHAPES[_SHAPE]) | {"vocab_size": 32000}
    hidden, width = 2048, 8192
    layer = 2 * (hidden * hidden * 2 + 2 * hidden * 512 + 3 * hidden * width)
    shape["num_hidden_layers"] = max(1, round((gigabytes * 1e9 - 2 * hidden * 32000) / layer))
    write_random_model(shape, folder)


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="a model; by default one is made, and removed")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of the one that is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not can_watch():
        sys.exit("loading: this needs Linux, which tells the peak of a process")
    if args.way:
        sys.stdout.write(json.dumps(one(args.way, args.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary) / "synthetic"
        try:
            if args.folder is None:
                write_synthetic(folder, args.gigabytes)
            report = {"command": command_line(args.out), **measured(folder, args.rounds)}
            found = json.dumps(report, indent=1) + "\n"
        except SetupError as error:
            sys.exit(f"loading: {error}")
    sys.stdout.write(found)
    if args.out:
        write_files(args.out.parent, {args.out.name: found.encode()})


if __name__ == "__main__":
    main()
