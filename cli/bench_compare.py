"""`moesaic bench compare`: what changed between two reports, beyond what either may as well have been."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..models.bounds import Bound
from .terminal import print_table

LEAST = 0.03  # a share below which a change is none
_LEAST = Bound(0, 1, whole=False, way_out="give a share, as 0.03")


def add_parser(actions: Any) -> None:
    parser = actions.add_parser("compare", help="what changed between two reports beyond noise; status 1: it got worse")
    parser.add_argument("before", type=Path, metavar="FILE")
    parser.add_argument("after", type=Path, metavar="FILE")
    parser.add_argument(
        "--least", type=float, default=LEAST, metavar="X", help="smaller changes are not told (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints what is better and what is worse. Status 1 where anything is worse."""
    from ..bench.compare import read_report

    _LEAST.check("least", args.least)
    return compare(read_report(args.before), read_report(args.after), args.least)


def compare(before: Mapping[str, Any], after: Mapping[str, Any], least: float = LEAST) -> int:
    """The same of two reports."""
    from ..bench.compare import compared, rows, warnings

    for line in warnings(before, after):
        print(line)
    changes = compared(before, after, least)
    told = [change for change in changes if change.sign]
    if told:
        print_table(*rows(told))
    worse = sum(change.worse for change in told)
    print(f"{len(changes)} figures: {worse} worse, {len(told) - worse} better, {len(changes) - len(told)} as they were")
    return 1 if worse else 0
