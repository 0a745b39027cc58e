"""`moesaic bench ops`: every operation beside its peers, and beside how it was."""

import argparse
from pathlib import Path
from typing import Any

from .made import machine_facts, typed
from .terminal import ProgressLine, print_table

EXAMPLES = """examples:
  moesaic bench ops --quick
  moesaic bench ops --only int8_linear paged_attention --against bench/results/ops/2-cores.json"""


def add_parser(actions: Any) -> None:
    parser = actions.add_parser(
        "ops", help="every operation beside torch's, as ratios that can be compared", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", default=[], metavar="OP", help="some of them, as bench/benchmark_OP.py")
    parser.add_argument(
        "--sittings", type=int, default=5, metavar="N", help="processes that measure (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes")
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="a report of before; status 1: something is slower"
    )
    parser.add_argument("--out", type=Path, default=Path("out/ops.json"), metavar="FILE", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and compares where asked."""
    from ..bench.compare import read_report
    from ..bench.ops.run import OpsPlan, notes, rows, run_ops
    from ..models.extras import check_installed
    from ..models.files import check_writable
    from .bench_compare import compare

    check_installed("measuring operations", "bench", "pytest")
    before = read_report(args.against) if args.against else None
    check_writable(args.out.parent, str(args.out))
    plan = OpsPlan(args.out, args.sittings, args.quick, tuple(args.only), typed())
    plan.check()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with ProgressLine() as progress:
        report = run_ops(plan, machine_facts, progress)
    print_table(*rows(report))
    for line in notes(report):
        print(line)
    print(f"written: {args.out}")
    return compare(before, report) if before else 0
