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
  moesaic retention smollm2 --text a.txt --over linears --out out/linears"""


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
    if spec.reads_sources:
        raise SetupError(f"{args.model} answers what an encoder reads, and curves are of models that continue text")
    if not spec.causal:
        raise SetupError(f"{args.model} is an encoder, and curves are of what a model predicts; name one that does")
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
