"""`moesaic recipes list|show NAME`: the recipes that ship with the package."""

import argparse
from typing import Any

EXAMPLES = """examples:
  moesaic recipes list
  moesaic recipes show all-four > mine.yaml
  moesaic compress ./my-model out/mine --recipe mine.yaml"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "recipes", help="list or show the recipes that ship", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="names and first lines").set_defaults(run=run_list)
    show = actions.add_parser("show", help="print one, to start your own from")
    show.add_argument("name")
    show.set_defaults(run=run_show)


def run_list(args: argparse.Namespace) -> int:
    """Prints a line a recipe: its name and its own first comment."""
    from ..compress.recipe import shipped_recipes

    for name, file in shipped_recipes().items():
        print(f"{name:12} {file.read_text().splitlines()[0].removeprefix('# ')}")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Prints the file."""
    from ..compress.recipe import shipped_recipes
    from ..models.errors import RecipeError
    from ..models.suggestion import suggestion

    shipped = shipped_recipes()
    if args.name not in shipped:
        raise RecipeError(f"there is no recipe {args.name!r}; {suggestion(args.name, list(shipped))}")
    print(shipped[args.name].read_text(), end="")
    return 0
