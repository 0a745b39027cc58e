"""`moesaic retention`: what an FFN keeps for the bytes it reads, by every method, on one model."""

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

from .made import typed
from .terminal import ProgressLine, print_table

OVER = ("neurons", "linears", "ffn", "head")

EXAMPLES = """examples:
  moesaic retention stories260k --text held_out.txt --out out/curves --full
  moesaic retention smollm2 --text a.txt b.txt --windows 16 --share 0.55 0.5 --only "high" TEAL FLAP
  moesaic retention smollm2 --text a.txt --over linears --out out/linears
  moesaic retention minilm --text held_out.txt --calibration-text train.txt --out out/minilm

Of a model with an encoder, vectors or answers are scored: of each text so many documents as --windows says."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "retention", help="draw quality against bytes read, for every split, router and rival", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", help="model directory or short name, in floating point")
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE", help="that nothing was chosen on")
    parser.add_argument(
        "--out", type=Path, default=Path("out/retention"), help="default: %(default)s; a run goes on there"
    )
    parser.add_argument("--windows", type=int, default=12, metavar="N", help="of each text; default: %(default)s")
    parser.add_argument("--length", type=int, default=256, metavar="N", help="tokens of a window; default: %(default)s")
    parser.add_argument(
        "--calibration", type=int, default=16, metavar="N", help="windows to learn from; default: %(default)s"
    )
    parser.add_argument(
        "--calibration-text", nargs="+", default=[], metavar="FILE",
        help="of a model with an encoder: text to learn from; default: text that ships",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="learn N times, each from other calibration text"
    )
    parser.add_argument(
        "--share", type=float, nargs="+", default=[], metavar="S", help="of the FFN's bytes; default: by kind"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="methods whose name holds one of these")
    parser.add_argument("--full", action="store_true", help="every split, router, rule and tile size")
    parser.add_argument(
        "--over", choices=OVER, default=OVER[0], help="shares of neurons (default): of an FFN's bytes, by every "
        "split and router; else graded inputs and their rivals, by bytes of all linears, of FFNs, or of the head",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures what is missing, prints a table for each share and names the files."""
    from ..bench.retention import page as neurons_page
    from ..bench.retention import plain
    from ..bench.retention.linears import page as linears_page
    from ..bench.retention.linears import plain as linears_plain
    from ..bench.retention.linears.run import draw_linear_curves
    from ..bench.retention.run import CurvePlan, draw_curves
    from ..evaluate.files import check_can_report
    from ..models.checkpoint import open_checkpoint
    from ..models.errors import SetupError

    check_can_report("retention", args.out)
    spec = open_checkpoint(args.model).spec
    if spec.classifies or spec.embeds:
        raise SetupError(f"{args.model} is {spec.kind}, and curves are of what a model predicts; name one that does")
    if spec.reads_sources or not spec.causal:
        return _of_encoder(args)
    if args.calibration_text:
        raise SetupError(
            f"--calibration-text is of models with an encoder, and {args.model} has none; leave it out: others "
            "learn from the text that ships"
        )
    plan = CurvePlan(
        args.model, args.out, tuple(args.text), args.windows, args.length, args.calibration, args.seed, args.seeds,
        args.full,
        tuple(args.share), tuple(args.only),
    )  # fmt: skip
    page: ModuleType
    with ProgressLine() as progress:
        if args.over == OVER[0]:
            page, curves, whole = neurons_page, plain.as_json(draw_curves(plan, progress)), "the FFN's int8 bytes"
        else:
            page, curves = linears_page, linears_plain.as_json(draw_linear_curves(plan, args.over, progress))
            whole = linears_page.whole_of(curves)
    curves = {"command": typed(), **curves}
    for share in page.shares_of(curves):
        print(f"{share:.0%} of {whole}")
        print_table(*page.rows(curves, share))
    for line in page.notes(curves):
        print(line)
    print("written: " + ", ".join(map(str, page.write_curves(curves, args.out))))
    return 0


def _of_encoder(args: argparse.Namespace) -> int:
    """The same of a model with an encoder, by its vectors or answers."""
    from ..bench.retention.encoders.page import as_json, notes, rows, shares_of, write_encoder_curves
    from ..bench.retention.encoders.run import EncoderPlan, draw_encoder_curves
    from ..models.errors import SetupError

    asked = {"full": args.full, "over": args.over != OVER[0], "seeds": args.seeds != 1}
    if wrong := [name for name, given in asked.items() if given]:
        raise SetupError(f"--{wrong[0]} is of models that continue text, and {args.model} has an encoder; leave it out")
    plan = EncoderPlan(
        args.model, args.out, tuple(args.text), tuple(args.calibration_text), args.windows, args.length,
        args.calibration, args.seed, tuple(args.share), tuple(args.only),
    )  # fmt: skip
    with ProgressLine() as progress:
        report = {"command": typed(), **as_json(draw_encoder_curves(plan, progress))}
    for share in shares_of(report):
        print(f"{share:.0%} of the FFN's int8 bytes")
        print_table(*rows(report, share))
    for line in notes(report):
        print(line)
    print("written: " + ", ".join(map(str, write_encoder_curves(report, args.out))))
    return 0
