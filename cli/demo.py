"""`moesaic demo`: the tour. Compress the model that ships, serve it, stream from it, and show what it kept."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from .common import describe_tier
from .terminal import ProgressLine, print_table

MARK = ".moesaic-demo"
PROMPT = "The old horse stood at the gate and"

EXAMPLES = """examples:
  moesaic demo
  moesaic models get smollm2        # once: the tour then shows a real model
  moesaic demo --full               # more text to calibrate, learn and score on: about seven minutes
  moesaic demo --out out/tour"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo", help="the tour, on the model that ships with the package", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("demo"), help="made anew each time (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="the long tour: more text, figures that are less noisy")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compresses, serves, streams one prompt at two tiers, measures, prints the table, names the files."""
    from ..bench import tour
    from ..bench.machine import machine_facts
    from ..models.extras import NO_PICTURE, can_draw

    began = time.monotonic()
    _fresh(args.out)
    model, recipe = tour.tour_model(), tour.FULL_RECIPE if args.full else tour.RECIPE
    _say_model(model, recipe)
    with ProgressLine(every_seconds=1.0) as progress:
        done = tour.compress_all(model, args.out, recipe, progress)
    print("\n2. serve it over gRPC, and stream the same prompt at two tiers")
    _stream(done["all four"].out)
    print("\n3. what each tier reads, keeps and gains, beside int8 alone and static pruning")
    paths: dict[str, str | Path] = {"dense": model, **{name: each.out for name, each in done.items()}}
    with ProgressLine(every_seconds=1.0) as progress:
        points = tour.measure_speeds(paths, tour.rows(model, done), progress)
    print_table(*tour.as_table(points))
    tokens = done["all four"].original["tokens"]
    note = f"scored on {tokens:,} tokens of Black Beauty, on which nothing was calibrated; speeds are of one stream"
    print(note)
    if not can_draw():
        print(NO_PICTURE)
    tour.write_report(points, model, machine_facts(), [note], args.out)
    print(f"\n{time.monotonic() - began:.0f} s. Written: " + ", ".join(map(str, _files(args.out))))
    return 0


def _say_model(model: str, recipe: str) -> None:
    from ..bench.tour import FULL_RECIPE, WANTED_MODEL

    if model != WANTED_MODEL:
        print(
            f"{WANTED_MODEL} is not at hand and could not be fetched (moesaic models get {WANTED_MODEL}), so this is "
            f"shown on {model}, which is far too small to be representative"
        )
    long = "about seven minutes" if recipe == FULL_RECIPE else "about two minutes"
    print(f"1. compress {model} by all four methods: recipe {recipe}, {long} on two quiet cores")


def _fresh(out: Path) -> None:
    """Deletes what an earlier demo left; refuses a directory that no demo made."""
    from ..models.errors import SetupError

    if out.exists() and not (out / MARK).exists() and (out.is_file() or any(out.iterdir())):
        raise SetupError(f"{out} was not made by a demo, so it is not deleted; name another with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def _stream(result: Path) -> None:
    from ..bench.local_server import local_server
    from ..models.checkpoint import open_checkpoint
    from ..server.client import Client

    tiers = open_checkpoint(result).tiers
    with local_server({"all-four": result}) as address, Client(address) as client:
        print(f"   listening on {address}")
        for tier in (tiers[0], tiers[-1]):
            print(f"   {tier:8} > {PROMPT}", end="", flush=True)
            for chunk in client.stream(PROMPT, max_new_tokens=40, temperature=0.0, tier=tier):
                print(chunk.text.replace("\n", " "), end="", flush=True)
            print(f"\n   {describe_tier(chunk.usage)}" if chunk.usage else "")


def _files(out: Path) -> list[Path]:
    return sorted(file for file in out.iterdir() if file.name != MARK)
