"""How many requests a second the generator itself can send, to a server whose engine answers at once.

    python -m moesaic.bench.load.ceiling OUT.json

Generator and server share the processors of one machine. Each rate is an open loop of its own; a rate counts where the
generator was not the limit and every request was answered.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ...evaluate.provenance import command_line, provenance
from ...models.bounds import Bound
from ...models.errors import MoesaicError
from ...models.files import check_file, write_whole
from ..server.processes import TimedServer
from ..server.timed_engine import Pace
from .arrivals import Lengths, ramp
from .drive import drive
from .figures import Limits, figures
from .grpc_door import GrpcDoor
from .prompts import Prompts

RATES = (250, 500, 1000, 2000)
_STEP_SECONDS, _SLOTS, _PATIENCE_SECONDS = 0.002, 256, 20.0
_LENGTHS = Lengths((8, 8), (1, 1))
_RATE = Bound(0, 100_000, above=True, whole=False, way_out="give requests a second")
_SECONDS = Bound(0, above=True, whole=False, way_out="5 is enough")


def measured(rates: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """A line for each rate."""
    for rate in rates:
        _RATE.check("rate", rate)
    _SECONDS.check("seconds", seconds)
    with TimedServer(Pace(_STEP_SECONDS), _SLOTS) as server:
        return [_at(server.address, rate, seconds) for rate in rates]


def _at(address: str, rate: float, seconds: float) -> dict[str, Any]:
    with closing(GrpcDoor(address)) as door:
        level = ramp(rate, rate, seconds, 1.0, _LENGTHS, {}, 0)
        found = figures(drive(door, level, Prompts(0), _PATIENCE_SECONDS), Limits())
    sent = {name: found[name] for name in ("requests", "answered", "errors", "generator")}
    return {"rate": rate, **sent, "ttft_ms": found["times"].get("ttft", {}).get("p50", {}).get("value")}


def kept(rows: Sequence[dict[str, Any]]) -> float:
    """The highest rate that counts, 0 where none does."""
    fair = [row["rate"] for row in rows if not row["generator"]["was_the_limit"] and row["answered"] == row["requests"]]
    return max(fair, default=0)


def main(words: Sequence[str] | None = None) -> int:
    """Status 2, and one sentence, for a mistake."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="a JSON file")
    parser.add_argument("--rate", nargs="+", type=float, default=list(RATES), metavar="N", help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each rate; default: %(default)g")
    args = parser.parse_args(words)
    try:
        check_file(args.out, str(args.out))
        rows = measured(args.rate, args.seconds)
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    report = {"command": command_line(args.out), "machine": provenance(), "seconds": args.seconds}
    report |= {"kept": kept(rows), "rates": rows}
    write_whole(args.out, (json.dumps(report, indent=1) + "\n").encode())
    for row in rows:
        said = "the generator was the limit" if row["generator"]["was_the_limit"] else "the generator kept up"
        sys.stdout.write(f"{row['rate']:g}/s: {row['answered']:,} of {row['requests']:,} answered, {said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
