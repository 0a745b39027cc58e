"""`moesaic demo`: the tour. Compress the model that ships, serve it, stream from it, and show what it kept."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from .common import Progress, table

MARK = ".moesaic-demo"
PROMPTS = ("Once upon a time, there was a little", "Tom and his dog went to the")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("demo", help="the tour, on the model that ships with the package")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="made anew each time (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compresses, serves, streams two prompts, measures, prints the table, names the files."""
    from ..bench.picture import draw
    from ..bench.report import BenchPlan, notes, rows, run_bench
    from ..models.locate import DEFAULT_MODEL

    began = time.monotonic()
    _fresh(args.out)
    print(f"1. compress {DEFAULT_MODEL} (a real model, trained by others) to int8")
    _compress(DEFAULT_MODEL, args.out / "int8")
    print("\n2. serve dense and int8 over gRPC, and stream from both")
    _stream(DEFAULT_MODEL, args.out / "int8")
    print("\n3. measure what was kept and what was gained")
    suites = ("retention", "engine", "serve")
    report = run_bench(BenchPlan(DEFAULT_MODEL, args.out, suites, quick=True), Progress())
    draw(report, args.out / "report.png")
    print(table(*rows(report)))
    for line in notes(report):
        print(line)
    print(f"\n{time.monotonic() - began:.0f} s. Written: " + ", ".join(map(str, _files(args.out))))
    return 0


def _fresh(out: Path) -> None:
    """Deletes what an earlier demo left; refuses a directory that no demo made."""
    from ..models.errors import SetupError

    if out.exists() and not (out / MARK).exists() and (out.is_file() or any(out.iterdir())):
        raise SetupError(f"{out} was not made by a demo, so it is not deleted; name another with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARK).touch()


def _compress(model: str, out: Path) -> None:
    from ..compress.pipeline import compress

    done = compress(model, out, "int8", Progress())
    print(
        f"   {done.bytes_before:,} -> {done.bytes_after:,} bytes; perplexity {done.original['perplexity']:.3f} -> "
        f"{done.result['perplexity']:.3f} on chapters of Black Beauty"
    )


def _stream(model: str, int8: Path) -> None:
    from ..bench.local_server import local_server
    from ..server.client import Client

    with local_server({"dense": model, "int8": int8}) as address, Client(address) as client:
        print(f"   listening on {address}")
        for name in ("dense", "int8"):
            for prompt in PROMPTS:
                print(f"   {name:5} > {prompt}", end="", flush=True)
                for chunk in client.stream(prompt, model=name, max_new_tokens=40, temperature=0.0):
                    print(chunk.text.replace("\n", " "), end="", flush=True)
                print()


def _files(out: Path) -> list[Path]:
    return sorted(file for file in out.iterdir() if file.name != MARK)
