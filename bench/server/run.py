"""A real server with a timed engine under load, beside a bare grpc.aio echo in the same run.

    python -m moesaic.bench.server.run OUT.json [--full | --quick] [--seconds N] [--only PART,PART]

About six minutes on a machine that has nothing else to do; --quick takes one, and its figures say only that it runs;
--full takes twenty, with five minutes of streams and two of each overload. What each part does stands in the file of
its name. Times are by the monotonic clock of the generator's own processes; where that was itself the limit, the part
says so (`was_the_limit`).
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...models.errors import MoesaicError
from ...models.files import write_whole
from .beside import measure_beside
from .cancels import measure_cancels
from .faults import measure_faults
from .overload import measure_overload
from .rolling import measure_rolling
from .streams import measure_streams

_SECONDS, _QUICK_SECONDS = 15.0, 1.5


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. many: callers of whom each wants its share; few: those who overload."""

    seconds: float = _SECONDS
    sustained: float = 0.0  # of streams, once more
    overload: float | None = None  # seconds of each, where that is another
    streams: int = 1000
    at_pace: int = 64
    many: int = 640
    few: int = 64
    cancels: int = 100_000
    beside: int = 16
    callers: int = 64  # of an engine that is killed
    servers: int = 3
    calls: float = 100.0  # a second, while servers are started again


FULL = Size(sustained=300.0, overload=120.0)
QUICK = Size(_QUICK_SECONDS, streams=50, at_pace=16, many=32, few=16, cancels=2000, beside=4, callers=8, servers=2)

Part = Callable[[], dict[str, Any]]


def parts(size: Size) -> Mapping[str, Part]:
    """What is measured, in this order."""
    seconds = size.seconds
    return {
        "streams": lambda: measure_streams(seconds, size.streams, size.at_pace, size.sustained),
        "overload": lambda: measure_overload(size.overload or seconds, size.many, size.few),
        "cancels": lambda: measure_cancels(5 * seconds, size.cancels),
        "beside": lambda: measure_beside(0.3 * seconds, size.beside),
        "faults": lambda: measure_faults(size.callers),
        "rolling": lambda: measure_rolling(size.servers, size.calls),
    }


def limits(found: object, path: str = "") -> Iterator[str]:
    """The places where the generator was itself the limit."""
    if isinstance(found, Mapping):
        if found.get("was_the_limit"):
            yield path.strip("/")
        for name, value in found.items():
            yield from limits(value, f"{path}/{name}" if name != "generator" else path)


def main() -> int:
    """Measures and writes. Status 1, one sentence and no file where a server died or would not start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, help=f"of each steady measurement, {_SECONDS:g} if left out")
    parser.add_argument("--quick", action="store_true", help="small numbers, for a minute")
    parser.add_argument("--full", action="store_true", help="for as long as the targets say, twenty minutes")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"parts of {', '.join(parts(Size()))}")
    args = parser.parse_args()
    if unknown := sorted({*(args.only or ())} - parts(Size()).keys()):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(parts(Size()))}")
    chosen = QUICK if args.quick else FULL if args.full else Size()
    size = chosen if args.seconds is None else replace(chosen, seconds=args.seconds)
    found: dict[str, Any] = {}
    try:
        for name, part in parts(size).items():
            if args.only and name not in args.only:
                continue
            sys.stderr.write(f"{name} ...\n")
            found[name] = part()
    except MoesaicError as error:
        sys.stderr.write(f"error: {name}: {error}\n")
        return 1
    from ...evaluate.provenance import command_line, provenance  # torch, which would only be in the way before

    about = {"command": command_line(args.out), "machine": provenance(), "quick": args.quick, "size": asdict(size)}
    whole = {**about, "generator_was_the_limit_in": [*limits(found)], **found}
    write_whole(args.out, (json.dumps(whole, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
