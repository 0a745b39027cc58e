"""`moesaic`: one command, one module per subcommand. A subcommand imports what it needs when it runs."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ..models.errors import MoesaicError
from ..models.suggestion import suggestion
from ..models.version import VERSION
from . import (
    bench,
    cache,
    compress,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    import_gguf,
    inspect,
    models,
    recipes,
    reference,
    retention,
    run,
    serve,
)
from .streams import drop_output, keep_streams

SUBCOMMANDS = (
    demo, run, compress, inspect, evaluate, export, serve, generate, bench, retention, models, import_gguf, reference,
    recipes, cache, doctor,
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """Refuses abbreviations, which a new option would change the meaning of, and says what was probably meant.

    Also takes an optional prompt that stands behind an option, as in `run PATH --chat PROMPT`.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = suggestion(str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, f"there is no {value!r}; {known}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if len(rest) == 1 and getattr(found, "prompt", "") is None and not rest[0].startswith("-"):
            found.prompt = rest.pop()
        return found, rest


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, with help."""
    parser = _Parser(
        prog="moesaic", description="Compress a Transformer, serve it over gRPC, see what it kept and gained."
    )
    parser.add_argument("--version", action="version", version=f"moesaic {VERSION}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for module in SUBCOMMANDS:
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. A user's mistake is one sentence on stderr and status 2."""
    keep_streams()
    warnings.formatwarning = lambda message, *_, **__: f"moesaic: warning: {message}\n"
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        return 0
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except MoesaicError as error:
        print(f"moesaic: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        drop_output()
        where = f" ({error.filename})" if error.filename else ""
        print(f"moesaic: error: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
