"""`moesaic bench report`: one page of several reports, which needs no other file."""

import argparse
from pathlib import Path
from typing import Any


def add_parser(actions: Any) -> None:
    parser = actions.add_parser("report", help="one page of JSON reports: of bench, bench serve, eval and compress")
    parser.add_argument("reports", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--out", type=Path, default=Path("out/report.html"), metavar="FILE", help="default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page and names it."""
    from ..bench.evidence.own import write_own
    from ..models.files import check_writable

    check_writable(args.out.parent, str(args.out))
    count = write_own(args.reports, args.out)
    print(f"written: {args.out}, {count} section{'s' * (count > 1)}")
    return 0
