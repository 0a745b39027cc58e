"""`moesaic serve PATH ...`: serve models over gRPC until SIGTERM."""

import argparse
from pathlib import Path
from typing import Any

from .common import add_engine_options, engine_options

EXAMPLES = """examples:
  moesaic serve stories260k
  moesaic serve small=out/int8 large=./my-model --port 50051

Each PATH may be NAME=PATH; the name is what requests say. SIGTERM lets running requests end first."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "serve", help="serve models over gRPC", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="model directory or short name, or NAME=PATH")
    parser.add_argument("--host", default="127.0.0.1", help="loopback only, for now (default: %(default)s)")
    parser.add_argument("--port", type=int, default=50051, help="0 takes any free one (default: %(default)s)")
    parser.add_argument(
        "--slots", type=int, default=8, help="requests decoded together, a model (default: %(default)s)"
    )
    parser.add_argument("--max-requests", type=int, default=64, help="running and waiting, a model; more are refused")
    parser.add_argument("--drain-seconds", type=float, default=30.0, help="for running requests after SIGTERM")
    parser.add_argument("--log-requests", action="store_true", help="one JSON line a request on stderr, without text")
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves; returns when drained."""
    from ..server.options import ServeOptions
    from ..server.serve import serve

    return serve(
        ServeOptions(
            models=tuple(_named(text) for text in args.paths),
            host=args.host,
            port=args.port,
            engine=engine_options(args, args.slots),
            max_requests=args.max_requests,
            drain_seconds=args.drain_seconds,
            log_requests=args.log_requests,
        )
    )


def _named(text: str) -> tuple[str, str]:
    """NAME=PATH, or PATH, whose last part is the name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else (Path(text).name, text)
