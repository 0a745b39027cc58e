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
  moesaic bench retention original=smollm2 graded=./seed0,./seed1,./seed2 gptq=./int4 --windows 40 --floor
  moesaic bench retention smollm2 ./graded --tasks lambada.jsonl --limit 200"""


def add_parser(actions: Any) -> None:
    parser = actions.add_parser(
        "retention", help="what models keep of an original, as they are served", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", help="the original: a model directory or short name, or NAME=DIRECTORY")
    parser.add_argument(
        "models", nargs="*", help="what was made of it; the same, or NAME=DIRECTORY,DIRECTORY: several seeds of one",
    )  # fmt: skip
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="FILE", help="that nothing was chosen on; default: text that ships"
    )
    parser.add_argument("--windows", type=int, metavar="N", help="at most so many pieces of text (default: all)")
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens of each (default: %(default)s)")
    parser.add_argument(
        "--context", type=int, default=64, metavar="N", help="of them read at full, not scored (default: %(default)s)"
    )
    parser.add_argument(
        "--kl", type=int, default=16, metavar="N",
        help="tokens of each whose whole distribution is held against the original's (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="questions: a file, or a name in a folder"
    )
    parser.add_argument("--tasks-dir", metavar="DIR", help="where tasks are named")
    parser.add_argument("--limit", type=int, metavar="N", help="questions of each task (default: all)")
    parser.add_argument("--floor", action="store_true", help="the original served in bf16 too: less means nothing")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of each server")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/retention.json"),
        metavar="FILE",
        help="default: %(default)s, and a page beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Scores, prints a table and names the files. Status 3: a server was gone before the end."""
    from ..bench.served.page import notes, rows
    from ..bench.served.plan import RetentionPlan
    from ..bench.served.run import run_retention
    from ..models.files import check_writable

    THREADS.check("threads", args.threads)
    check_writable(args.out.parent, str(args.out))
    plan = RetentionPlan(
        _named([args.model, *args.models]), args.out, tuple(args.text), args.windows, args.length, args.context,
        args.threads, typed(), args.kl, tuple(args.tasks), args.tasks_dir, args.limit, args.floor,
    )  # fmt: skip
    plan.check()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ProgressLine() as progress:
        report = run_retention(plan, machine_facts, progress)
    show(args.out, rows(report), notes(report))
    return 0 if report["complete"] else 3


def _named(words: list[str]) -> dict[str, tuple[str, ...]]:
    """{name: paths} of `NAME=PATH`, `NAME=PATH,PATH` or `PATH`."""
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, given, path = word.partition("=")
        name = name if given else word
        if name in found:
            raise SetupError(f"two models are called {name}; call them apart: before=./a after=./b")
        found[name] = tuple(path.split(",")) if given else (word,)
    return found
