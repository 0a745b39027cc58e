"""`moesaic serve PATH ...`: serve models over gRPC and HTTP until SIGTERM."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ..engine.options import EngineOptions
from .common import add_engine_options, byte_count, engine_options
from .terminal import say_error

EXAMPLES = """examples:
  moesaic serve stories260k
  moesaic serve small=out/int8 large=./my-model --port 50051

Each PATH may be NAME=PATH; the name is what requests say. SIGTERM lets running requests end first."""

GIVEN = (
    "host", "port", "http_port", "max_requests", "max_request_bytes", "drain_seconds", "load_seconds", "stall_seconds",
    "request_seconds", "write_seconds", "receive_seconds", "max_connections", "max_streams",
)  # fmt: skip


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve models over gRPC and HTTP",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="model directory or short name, or NAME=PATH")
    parser.add_argument("--config", metavar="FILE", help="YAML with the same settings; options given here win")
    parser.add_argument("--host", help="loopback only, for now (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="0 takes any free one (default: 50051)")
    parser.add_argument(
        "--http-port",
        type=int,
        help="of the page and OpenAI's API; 0 takes any free one (default: 8000, or a free one)",
    )
    parser.add_argument("--no-http", action="store_true", help="gRPC alone")
    parser.add_argument("--slots", type=int, help="requests decoded together, a model (default: 8)")
    parser.add_argument("--max-requests", type=int, help="running and waiting, a model; more are refused (default: 64)")
    parser.add_argument(
        "--max-request-bytes",
        type=byte_count,
        metavar="BYTES",
        help="of all requests in flight as they came; more are refused (default: 32M)",
    )
    parser.add_argument("--drain-seconds", type=float, help="for running requests after SIGTERM (default: 30)")
    parser.add_argument(
        "--load-seconds", type=float, help="for an engine to load; one that takes longer is killed (default: 1800)"
    )
    parser.add_argument(
        "--stall-seconds",
        type=float,
        help="work waits and no step has ended: the health is NOT_SERVING, and after four times as long the engine is "
        "started again (default: 30)",
    )
    parser.add_argument("--request-seconds", type=float, help="for one call from first to last byte (default: 300)")
    parser.add_argument("--write-seconds", type=float, help="for a caller to read on (default: 30)")
    parser.add_argument("--receive-seconds", type=float, help="for a caller to send its message (default: 10)")
    parser.add_argument("--max-connections", type=int, help="open at a time; more are closed (default: 1024)")
    parser.add_argument("--max-streams", type=int, help="calls at a time on one connection (default: 100)")
    parser.add_argument("--log-requests", action="store_true", help="one JSON line a request on stderr, without text")
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves; returns when drained."""
    with _ended_by_term():
        return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    from ..server.config import read_config
    from ..server.options import ServeOptions
    from ..server.serve import serve

    base = read_config(args.config) if args.config else ServeOptions(models=())
    given = {name: value for name in GIVEN if (value := getattr(args, name)) is not None}
    return serve(
        replace(
            base,
            models=tuple(_named(text) for text in args.paths) or base.models,
            engine=_engine_options(args, base.engine),
            log_requests=args.log_requests or base.log_requests,
            http=base.http and not args.no_http,
            **given,
        ),
        complain=say_error,
    )


@contextmanager
def _ended_by_term() -> Iterator[None]:
    """SIGTERM is an end as asked for, until the server, which takes a while to import, has its own way to end."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _engine_options(args: argparse.Namespace, base: EngineOptions) -> EngineOptions:
    """What the command line leaves open comes from `base`."""
    asked = asdict(engine_options(args, base.num_slots if args.slots is None else args.slots))
    asked["seed"] = args.engine_seed
    return replace(base, **{name: value for name, value in asked.items() if value is not None})


def _named(text: str) -> tuple[str, str]:
    """NAME=PATH, or PATH, whose last part is the name."""
    name, equals, path = text.partition("=")
    return (name, path) if equals and not Path(text).exists() else (Path(text).resolve().name, text)
