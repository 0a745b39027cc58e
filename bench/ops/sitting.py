"""One sitting: a process that times points of every operation once, and tells each in a line of JSON.

    python -m moesaic.bench.ops.sitting --only int8_linear

Two sittings differ as two runs do: by where memory lies, and by what the machine does meanwhile.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from ...kernels import native
from .point import Point, measured

BENCH = Path(__file__).parents[1]
PREFIX = "benchmark_"


def operations() -> dict[str, str]:
    """The module of every bench/benchmark_NAME.py, by NAME."""
    package = __package__.removesuffix(".ops") if __package__ else ""
    files = sorted(BENCH.glob(f"{PREFIX}*.py"))
    return {file.stem.removeprefix(PREFIX): f"{package}.{file.stem}" for file in files}


def points_of(operation: str, quick: bool) -> Iterator[Point]:
    """Of one operation; fewer where quick."""
    found: Iterator[Point] = import_module(operations()[operation]).points(quick)
    return found


def main(words: Sequence[str] | None = None) -> int:
    """First a line with the number of points, then a line for each."""
    parser = argparse.ArgumentParser(description="Times points of every operation once.")
    parser.add_argument("--only", nargs="+", default=[*operations()], choices=[*operations()], metavar="OP")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sources", type=Path, metavar="FOLDER", help="of the C++ that is built; default: what ships")
    args = parser.parse_args(words)
    native.SOURCES = args.sources or native.SOURCES
    every = [(name, point) for name in args.only for point in points_of(name, args.quick)]
    _say({"points": len(every)})
    for name, point in every:
        _say({"op": name, **measured(point)})
    return 0


def _say(found: object) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
