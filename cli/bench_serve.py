"""`moesaic bench serve`: one or several servers under load, side by side, over gRPC or OpenAI's HTTP door."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.bounds import THREADS, Bound
from ..models.errors import SetupError
from .made import machine_facts, show, typed
from .terminal import ProgressLine

if TYPE_CHECKING:
    from ..bench.load.arrivals import Lengths, Level

_TARGETS = """examples:
  moesaic bench serve ./my-model --users 1 4 8 --limit ttft:500ms tpot:50ms
  moesaic bench serve ours=grpc://127.0.0.1:50051 theirs=http://127.0.0.1:8080/v1 --rate 1 2 4 --seconds 60
  moesaic bench serve ./my-model --trace azure.csv --speed 4 --tier full --tier low=3

servers:
  ./my-model, smollm2          a model, served here while it is measured
  model.gguf                   the same by llama.cpp's own server, of the wheel xllamacpp
  grpc://HOST:PORT[/MODEL]     a server of moesaic
  http://HOST:PORT[/v1]        whatever has OpenAI's /v1/completions: moesaic, llama.cpp, vLLM; ?model=NAME of several
  before=grpc://HOST:PORT      under a name of your own
A token is taken from $MOESAIC_TOKEN. Load is measured without TLS."""

_RATE = Bound(0, 1e5, whole=False, above=True, way_out="give requests per second")
_SECONDS = Bound(0, 86_400, whole=False, above=True, way_out="give seconds for each level")
_USERS = Bound(1, 10_000, way_out="give a number of users")
_BURST = Bound(0, 1e6, whole=False, above=True, way_out="1 is Poisson, less comes in bursts, much more is even")
_SPEED = Bound(0, 1e6, whole=False, above=True, way_out="1 is as it was, 2 twice as fast")
_LONGEST = Bound(2, 1 << 20, way_out="give the tokens that the model's window holds")
_PATIENCE = Bound(0, 3600, whole=False, way_out="give seconds")
_WARM = Bound(0, 1000, way_out="give a number of requests")


def add_parser(actions: Any) -> None:
    parser = actions.add_parser(
        "serve", help="a server under load: waiting times, throughput, goodput", epilog=_TARGETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("target", nargs="+", help="servers to measure, in turns; see below")
    parser.add_argument(
        "--rate", nargs="+", type=float, metavar="N", help="requests per second, a level each; no answer is waited for"
    )
    parser.add_argument(
        "--users", nargs="+", type=int, metavar="N", help="users who wait for their answer, a level each (default: 1 4)"
    )
    parser.add_argument(
        "--ramp", nargs=2, type=float, metavar="N", help="a rate that changes evenly from one to the other"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="a CSV of requests as they came: time, prompt tokens, answer tokens"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        metavar="X",
        help="how much faster the trace is played (default: %(default)s)",
    )
    parser.add_argument(
        "--longest",
        type=int,
        default=2048,
        metavar="N",
        help="tokens of prompt and answer to which a trace is cut (default: %(default)s)",
    )
    parser.add_argument(
        "--lengths",
        type=Path,
        metavar="FILE",
        help="a CSV as of --trace, whose lengths --rate, --ramp and --users have",
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of each level (default: %(default)s)")
    parser.add_argument(
        "--burstiness",
        type=float,
        default=1.0,
        metavar="X",
        help="1 is Poisson, less comes in bursts (default: %(default)s)",
    )
    parser.add_argument("--prompt-tokens", default="128", metavar="N", help="N or N:N (default: %(default)s)")
    parser.add_argument("--new-tokens", default="64", metavar="N", help="N or N:N (default: %(default)s)")
    parser.add_argument(
        "--tier",
        action="append",
        default=[],
        metavar="TIER",
        help="full, or full=2 low=1 for two of three; may be repeated",
    )
    parser.add_argument(
        "--limit",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="what goodput keeps: ttft:500ms itl:200ms tpot:50ms e2e:5s",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of arrivals, lengths and prompts (default: %(default)s)"
    )
    parser.add_argument(
        "--warm-up", type=int, default=4, metavar="N", help="requests before, not counted (default: %(default)s)"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="S",
        help="for what is open after a level (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of a model that is served here")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/load.json"),
        metavar="FILE",
        help="default: %(default)s, and a page beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints a table and what one must know of it. Status 3: a server was gone before the end."""
    from ..bench.load.figures import Limits
    from ..bench.load.run import LoadPlan, notes, rows, run_load
    from ..bench.load.target import Target
    from ..models.files import check_writable
    from ..server.dialling import TOKEN

    _check(args)
    targets = tuple(Target.read(word) for word in args.target)
    if len({target.name for target in targets}) < len(targets):
        raise SetupError("two servers have one name; call them apart: before=ADDRESS after=ADDRESS")
    check_writable(args.out.parent, str(args.out))
    plan = LoadPlan(
        targets, tuple(_levels(args)), args.out, Limits.read(args.limit), args.seed, args.patience, args.warm_up,
        args.threads, os.environ.get(TOKEN, ""), typed(),
    )  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ProgressLine() as progress:
        report = run_load(plan, machine_facts, progress)
    show(args.out, rows(report), notes(report))
    return 0 if report["complete"] else 3


def _check(args: argparse.Namespace) -> None:
    for rate in [*(args.rate or ()), *(args.ramp or ())]:
        _RATE.check("a rate", rate)
    for users in args.users or ():
        _USERS.check("users", users)
    for bound, name in (
        (_SECONDS, "seconds"), (_BURST, "burstiness"), (_SPEED, "speed"), (_LONGEST, "longest"),
        (_PATIENCE, "patience"), (_WARM, "warm_up"), (THREADS, "threads"),
    ):  # fmt: skip
        bound.check(name, getattr(args, name))


def _levels(args: argparse.Namespace) -> "list[Level]":
    """In the order of the options; two numbers of users where nothing is asked for."""
    from ..bench.load.arrivals import closed, ramp
    from ..bench.load.trace import replay

    lengths, tiers, rest = _lengths(args), _tiers(args.tier), args.seed
    rates = [(rate, rate) for rate in args.rate or ()] + ([tuple(args.ramp)] if args.ramp else [])
    levels = [ramp(begin, end, args.seconds, args.burstiness, lengths, tiers, rest) for begin, end in rates]
    if args.trace:
        levels.append(replay(args.trace, args.speed, args.seconds, args.longest, tiers, rest))
    users = args.users or ([] if levels else [1, 4])
    empty = [level.name for level in levels if not level.requests]
    if empty:
        raise SetupError(f"at {empty[0]} no request leaves within {args.seconds:g} s; measure longer: --seconds")
    return [closed(count, args.seconds, lengths, tiers, rest) for count in users] + levels


def _lengths(args: argparse.Namespace) -> "Lengths":
    from ..bench.load.arrivals import Lengths
    from ..bench.load.trace import lengths_of

    if args.lengths:
        return lengths_of(args.lengths, args.longest)
    return Lengths(_range("prompt-tokens", args.prompt_tokens), _range("new-tokens", args.new_tokens))


def _range(name: str, text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = 0, 0
    if not 0 < found[0] <= found[1] <= 1 << 20:
        raise SetupError(f"--{name} is {text}, it must be a number from 1 to {1 << 20:,}, or two as 64:256")
    return found


def _tiers(words: list[str]) -> dict[str, float]:
    found = {}
    for word in words:
        name, _, weight = word.partition("=")
        try:
            found[name] = float(weight or 1)
        except ValueError:
            found[name] = 0.0
        if not name or not 0 < found[name] < 1e9:
            raise SetupError(f"--tier is {word}, it must be a name, or a name and how often: low=2")
    return found
