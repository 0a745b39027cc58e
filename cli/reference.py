"""`moesaic reference`: train a reference model from a small description, resumable to the step."""

import argparse
from pathlib import Path
from typing import Any

from ..bench.reference.train import EXAMPLES, add_pack_arguments, add_train_arguments


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "reference", help="train a reference model from a description", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add_train_arguments(actions.add_parser("train", help="train, or go on; exports at the end"))
    add_pack_arguments(actions.add_parser("pack", help="only train the tokenizer and pack the text"))
    export = actions.add_parser("export", help="write model, curve and card of the last saved state")
    export.add_argument("out", type=Path, help="folder of the run")
    export.add_argument("--name", help="for the card; default: the folder's name")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Does what was asked, with a line of progress every ten seconds. Status 3: stopped on request, and saved."""
    from ..bench.reference import train

    actions = {"train": train.run_train, "pack": train.run_pack, "export": train.run_export}
    return actions[args.action](args, lambda line: print(line, flush=True))
