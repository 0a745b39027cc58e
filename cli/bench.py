"""`moesaic bench`: what is measured, a word each."""

import argparse
from pathlib import Path
from typing import Any

from . import bench_compare, bench_ops, bench_report, bench_retention, bench_serve
from .made import typed
from .names import SHAPES
from .terminal import ProgressLine, print_table

EXAMPLES = """examples:
  moesaic bench all --quick
  moesaic bench engine --model ./my-model --out out/bench
  moesaic bench kernels --quick
  moesaic bench all --model ./my-model --text valid.txt --documents 20
  moesaic bench serve ./my-model --rate 1 2 4 --limit ttft:500ms
  moesaic bench compare before.json after.json
  moesaic bench report out/load.json out/bench/report.json --out report.html"""
SUITES = {
    "all": "models, server and operations beside transformers and torch: one report and its page",
    "engine": "tokens per second, beside transformers",
    "kernels": "products in int8, beside torch",
}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench", help="measure models, servers and kernels beside their peers", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True, metavar="WHAT")
    for name, told in SUITES.items():
        _add_suite(actions.add_parser(name, help=told))
    bench_ops.add_parser(actions)
    bench_serve.add_parser(actions)
    bench_retention.add_parser(actions)
    bench_compare.add_parser(actions)
    bench_report.add_parser(actions)
    parser.set_defaults(run=run)


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="stories260k", help="model directory or short name (default: %(default)s)")
    parser.add_argument("--shape", metavar="NAME", help=f"random weights in this shape: {', '.join(SHAPES)}")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="default: %(default)s")
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="to score on; default: text that ships")
    parser.add_argument("--documents", type=int, metavar="N")
    parser.add_argument("--truncate", type=int, default=512, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads, for every contestant")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not figures to quote")


def run(args: argparse.Namespace) -> int:
    """Does what was asked."""
    actions = {
        "serve": bench_serve.run, "retention": bench_retention.run, "compare": bench_compare.run,
        "report": bench_report.run, "ops": bench_ops.run,
    }  # fmt: skip
    return actions.get(args.action, _run_suite)(args)


def _run_suite(args: argparse.Namespace) -> int:
    """Measures, prints the table and names the files it wrote."""
    from ..bench.evidence.own import write_own
    from ..bench.ops.run import rows as ops_rows
    from ..bench.picture import draw
    from ..bench.report import SUITES, BenchPlan, kernel_rows, notes, rows, run_bench
    from ..bench.shapes import write_shape
    from ..models.extras import NO_PICTURE, can_draw, check_installed

    # products in int8 are among the operations
    every = tuple(name for name in SUITES if not (args.quick and name == "kernels"))
    suites = every if args.action == "all" else (args.action,)
    if {"kernels", "ops"} & {*suites}:
        check_installed("measuring operations", "bench", "pytest")
    model = str(write_shape(args.shape, args.out / args.shape)) if args.shape else args.model
    plan = BenchPlan(
        model, args.out, suites, tuple(args.text), args.documents, args.truncate, args.quick, args.threads, typed()
    )
    with ProgressLine() as progress:
        report = run_bench(plan, progress)
    print_table(*rows(report))
    for line in notes(report):
        print(line)
    if "kernels" in report:
        print_table(*kernel_rows(report["kernels"]))
    if "ops" in report:
        print_table(*ops_rows(report["ops"]))
    written = [args.out / "report.json"]
    if can_draw():
        draw(report, args.out / "report.png")
        written.append(args.out / "report.png")
    else:
        print(NO_PICTURE)
    write_own(written[:1], args.out / "report.html")
    written.append(args.out / "report.html")
    print(f"written: {', '.join(map(str, written))}")
    return 0
