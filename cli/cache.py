"""`moesaic cache list|clear`: what is kept between runs: built CPU kernels, models fetched by name, stages, scores."""

import argparse
import shutil
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  moesaic cache list
  moesaic cache clear"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "cache", help="list or clear what is kept between runs", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="folders and their sizes").set_defaults(run=run_list)
    actions.add_parser("clear", help="remove all of it; it is made again when needed").set_defaults(run=run_clear)


def run_list(args: argparse.Namespace) -> int:
    """Prints a line for each thing kept."""
    from ..kernels.cache import cache_folder

    folder = cache_folder()
    print(folder)
    for entry in _entries(folder):
        size = sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        print(f"{size:>14,} bytes  {entry.relative_to(folder)}")
    return 0


def run_clear(args: argparse.Namespace) -> int:
    """Removes everything that `list` shows."""
    from ..kernels.cache import cache_folder

    entries = _entries(cache_folder())
    for entry in entries:
        shutil.rmtree(entry)
    print(f"removed {len(entries)} folders from {cache_folder()}")
    return 0


def _entries(folder: Path) -> list[Path]:
    """One level below these folders: nothing else in the cache is ours to remove."""
    kinds = ("native", "models", "stages")
    found = [entry for kind in kinds for entry in folder.glob(f"{kind}/*") if entry.is_dir()]
    return sorted([*found, *(each for each in (folder / "scores",) if each.is_dir())])
