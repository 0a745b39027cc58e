"""`moesaic serve PATH ...`: serve models over gRPC and HTTP until SIGTERM."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from ..engine.options import EngineOptions
from ..models.setting import settings
from ..server.options import ServeOptions
from .common import add_engine_options, add_setting
from .terminal import say_error

EXAMPLES = """examples:
  moesaic serve stories260k
  moesaic serve small=out/int8 large=./my-model --port 50051
  moesaic serve --config serve.yaml --print-config
  moesaic serve out/int8 --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --tokens tokens.jsonl

Each PATH may be NAME=PATH; the name is what requests say. SIGTERM lets running requests end first.
A setting comes from its flag, else from the environment (MOESAIC_SERVE_PORT for --port), else from the file of
--config, else it is the default; --print-config says which."""

_KINDS = (ServeOptions, EngineOptions)
_SLOTS = "num_slots"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="serve models over gRPC and HTTP",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="model directory or short name, or NAME=PATH")
    parser.add_argument("--config", metavar="FILE", help="YAML with the same settings; options given here win")
    parser.add_argument("--print-config", action="store_true", help="print all settings as such a file, and end")
    for name, each in settings(ServeOptions).items():
        add_setting(parser, each, name)
    add_setting(parser, settings(EngineOptions)[_SLOTS], _SLOTS)
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serves; returns when drained."""
    with _ended_by_term():
        return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    from ..server.config import configuration, named_model
    from ..server.config_text import config_file
    from ..server.serve import serve

    names = {name: "engine_seed" if name == "seed" else name for kind in _KINDS for name in settings(kind)}
    flags = {name: value for name, key in names.items() if (value := getattr(args, key)) is not None}
    if args.paths:
        flags["models"] = tuple(named_model(text) for text in args.paths)
    found = configuration(flags, os.environ, args.config)
    if args.print_config:
        sys.stdout.write(config_file(found))
        return 0
    return serve(found.options, complain=say_error, origins=found.origins)


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
