"""`moesaic eval PATH`: perplexity, accuracy and tasks, alone or against an original, with what they are worth."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_engine_options
from .pairs import evaluate_pairs, is_of_pairs
from .terminal import ProgressLine, print_table
from .vectors import evaluate_vectors, is_of_vectors

if TYPE_CHECKING:
    from ..evaluate.results import Evaluation

EXAMPLES = """examples:
  moesaic eval stories260k
  moesaic eval out/int8 --against stories260k --floor --text stories.txt --documents 120 --truncate 512
  moesaic eval smollm2 --text a.txt b.txt --stride 256 --max-context 1024 --report out/report
  moesaic eval smollm2 --tasks lambada_openai.jsonl piqa --tasks-dir tasks --limit 300

Texts are UTF-8, plain or .xz or .gz, documents separated by a line <|endoftext|>; or .jsonl (.ndjson, .json) with a
field "text". Of a model that answers what an encoder reads (t5, bart, marian) they are .jsonl with "source" and
"target"; of an encoder (minilm) the same, or documents, whose first half is to find the second. Tasks are .jsonl with
context/continuation, query/choices/gold or context_options/continuation/gold; .csv as MMLU has it; or NAME.train.tsv
with NAME.valid.tsv, lines of label and text, of which a model that has a classifier needs no NAME.train.tsv."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "eval", help="score a model on text and tasks", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="model directory or short name")
    parser.add_argument("--against", metavar="ORIGINAL", help="compare with this model: KL, agreement, intervals")
    parser.add_argument("--floor", action="store_true", help="put ORIGINAL cast to bf16 beside it")
    parser.add_argument(
        "--text", nargs="+", default=[], metavar="FILE", help="a figure for each; default: Black Beauty"
    )
    parser.add_argument("--documents", type=int, metavar="N", help="the first N documents of each text only")
    parser.add_argument("--truncate", type=int, metavar="N", help="cut each document at N tokens")
    parser.add_argument("--stride", type=int, metavar="N", help="new tokens a window (default: all but one)")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="task files, or names in --tasks-dir")
    parser.add_argument("--tasks-dir", metavar="DIR", help="where tasks are looked up by name")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N items of each task only")
    parser.add_argument(
        "--training-text", nargs="+", default=[], metavar="FILE", help="say how much of the texts it has"
    )
    parser.add_argument("--tier", default="full", metavar="TIER", help="how much of the weights to read")
    parser.add_argument("--json", metavar="FILE", help="write the figures, per document too")
    parser.add_argument("--report", metavar="DIR", help="write report.json, report.png and report.html")
    add_engine_options(parser, slots=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the figures and names the files it wrote."""
    from ..evaluate.measure import measure
    from ..evaluate.plan import Plan
    from ..evaluate.report import notes, rows, write_report
    from ..models.files import write_whole

    if is_of_pairs(args):
        return evaluate_pairs(args)
    if is_of_vectors(args):
        return evaluate_vectors(args)
    _check_outputs(args)
    plan = Plan(
        args.path, args.against, args.text, args.documents, args.truncate, args.stride, args.tasks, args.tasks_dir,
        args.limit, args.floor, args.training_text, args.tier, args.device, args.dtype, args.threads,
        args.max_context, args.engine_seed or 0,
    )  # fmt: skip
    with ProgressLine() as progress:
        evaluation = measure(plan, progress)
    _print_texts(evaluation)
    print_table(*rows(evaluation))
    for line in notes(evaluation):
        print(line)
    if args.json:
        write_whole(Path(args.json), json.dumps(_figures(evaluation), indent=2).encode() + b"\n")
        print(f"written to {args.json}")
    if args.report:
        print(f"written: {', '.join(map(str, write_report(evaluation, Path(args.report))))}")
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Checks before any work that what was asked for can be written."""
    from ..evaluate.files import check_can_report
    from ..models.files import check_file

    if args.json:
        check_file(Path(args.json), f"--json {args.json}")
    if args.report:
        check_can_report("--report", Path(args.report))


def _print_texts(evaluation: "Evaluation") -> None:
    """The headline of each text."""
    from ..evaluate.plan import MODEL

    for text in evaluation.texts:
        figures = text.scores[MODEL].summary()
        print(text.name)
        print(f"{figures['nats_per_token']:.6f} nats per token")
        print(f"perplexity {figures['perplexity']:.4f}")
        print(f"top-1 accuracy {figures['top1_accuracy']:.2%}")
        if against := evaluation.plan.against:
            print(f"KL from {against}: {figures['kl_nats_per_token']:.6f} nats per token")
            print(f"top-1 agreement with {against}: {figures['top1_agreement']:.2%}")


def _figures(evaluation: "Evaluation") -> dict[str, Any]:
    """All of it; where one text was scored, its own figures at the top as well."""
    from ..evaluate.plan import MODEL

    values = evaluation.to_json()
    first = values["texts"][0]["scores"][MODEL] if len(values["texts"]) == 1 else {}
    return {"model": values["plan"]["model"], "against": values["plan"]["against"], **first, **values}
