"""`moesaic`: one command, one module per subcommand. A subcommand imports what it needs when it runs."""

import argparse
import sys
from collections.abc import Sequence

from ..kernels.native import announce_builds
from ..models.errors import MoesaicError
from ..models.quiet import quiet_libraries
from ..models.version import VERSION
from . import (
    bench,
    cache,
    classifier,
    classify,
    completion,
    compress,
    demo,
    doctor,
    embed,
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
    token,
    tune,
)
from .parser import Parser, commands_of, share_examples
from .streams import drop_output, keep_streams
from .terminal import say, say_error, say_warning

SUBCOMMANDS = (
    demo, run, compress, inspect, evaluate, export, embed, classify, classifier, serve, token, generate, bench,
    retention, models, import_gguf, reference, recipes, cache, tune, doctor, completion,
)  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, with help."""
    parser = Parser(
        prog="moesaic", description="Compress a Transformer, serve it over gRPC, see what it kept and gained."
    )
    parser.add_argument("--version", action="version", version=f"moesaic {VERSION}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for module in SUBCOMMANDS:
        module.add_parser(commands)
    for command in commands_of(parser).values():
        share_examples(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. A user's mistake is one sentence on stderr and status 2."""
    keep_streams()
    quiet_libraries(say_warning)
    announce_builds(say)
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help()
        return 0
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except MoesaicError as error:
        say_error(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        drop_output()
        where = f" ({error.filename})" if error.filename else ""
        say_error(f"{error.strerror or error}{where}")
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
