"""`moesaic bench retention`: what compressed models keep of an original, tier by tier, as they are served."""

import argparse
from pathlib import Path
from typing import Any

from ..models.bounds import THREADS
from ..models.errors import SetupError
from .made import machine_facts, show, typed
from .terminal import ProgressLine

EXAMPLES = """examples:
  moesaic bench retention smollm2 ./graded ./pruned --text held_out.txt
  moesaic bench retention original=smollm2 seed0=./a seed1=./b seed2=./c --windows 40"""


def add_parser(actions: Any) -> None:
    parser = actions.add_parser(
        "retention", help="what models keep of an original, as they are served", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", help="the original: a model directory or short name, or NAME=DIRECTORY")
    parser.add_argument("models", nargs="*", help="what was made of it, or of it by other means; the same")
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="FILE", help="that nothing was chosen on; default: text that ships"
    )
    parser.add_argument("--windows", type=int, metavar="N", help="at most so many pieces of text (default: all)")
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens of each (default: %(default)s)")
    parser.add_argument(
        "--context", type=int, default=64, metavar="N", help="of them read at full, not scored (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each server")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/retention.json"),
        metavar="FILE",
        help="default: %(default)s, and a page beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Scores, prints a table and names the files."""
    from ..bench.served.page import notes, rows
    from ..bench.served.run import RetentionPlan, run_retention
    from ..models.files import check_writable

    THREADS.check("threads", args.threads)
    check_writable(args.out.parent, str(args.out))
    plan = RetentionPlan(
        _named([args.model, *args.models]), args.out, tuple(args.text), args.windows, args.length, args.context,
        args.threads, typed(),
    )  # fmt: skip
    plan.check()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ProgressLine() as progress:
        report = run_retention(plan, machine_facts, progress)
    show(args.out, rows(report), notes(report))
    return 0


def _named(words: list[str]) -> dict[str, str]:
    """{name: path} of `NAME=PATH` or `PATH`."""
    found: dict[str, str] = {}
    for word in words:
        name, given, path = word.partition("=")
        name = name if given else word
        if name in found:
            raise SetupError(f"two models are called {name}; call them apart: before=./a after=./b")
        found[name] = path if given else word
    return found
