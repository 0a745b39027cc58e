"""`moesaic bench compare`: what changed between two reports, beyond what either may as well have been."""

import argparse
from pathlib import Path
from typing import Any

from ..models.bounds import Bound
from .terminal import print_table

_LEAST = Bound(0, 1, whole=False, way_out="give a share, as 0.03")


def add_parser(actions: Any) -> None:
    parser = actions.add_parser("compare", help="what changed between two reports beyond noise; status 1: it got worse")
    parser.add_argument("before", type=Path, metavar="FILE")
    parser.add_argument("after", type=Path, metavar="FILE")
    parser.add_argument(
        "--least", type=float, default=0.03, metavar="X", help="smaller changes are not told (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Prints what is better and what is worse. Status 1 where anything is worse."""
    from ..bench.compare import compared, read_report, rows, warnings

    _LEAST.check("least", args.least)
    before, after = read_report(args.before), read_report(args.after)
    for line in warnings(before, after):
        print(line)
    changes = compared(before, after, args.least)
    told = [change for change in changes if change.sign]
    if told:
        print_table(*rows(told))
    worse = sum(change.worse for change in told)
    print(f"{len(changes)} figures: {worse} worse, {len(told) - worse} better, {len(changes) - len(told)} as they were")
    return 1 if worse else 0
