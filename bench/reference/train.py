"""Trains a reference model: `python -m moesaic.bench.reference.train DESCRIPTION OUT --text FILES`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import MoesaicError, SetupError

if TYPE_CHECKING:
    from .description import Description
    from .run import Texts

EXAMPLES = """examples:
  moesaic reference train relu-3m out/relu-3m --text train/*.txt.xz --valid valid/*.txt --minutes 70 --nice 10
  moesaic reference train relu-3m out/relu-3m    # goes on where it was killed
  moesaic reference train my.yaml out/mine --text books.txt --steps 2000 --seed 1
  moesaic reference pack relu-3m out/relu-3m --text train/*.txt.xz --valid valid/*.txt
  moesaic reference export out/relu-3m           # the model of the last saved state
named descriptions: relu-30m relu-10m relu-3m relu-2m swiglu-10m"""


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """What packing the text and training have in common."""
    parser.add_argument("description", help="a YAML file or a name: relu-30m, relu-10m, relu-3m, relu-2m, swiglu-10m")
    parser.add_argument("out", type=Path, help="folder of the run; an interrupted one goes on")
    parser.add_argument("--text", nargs="+", type=Path, default=[], metavar="FILE", help="to train on")
    parser.add_argument("--valid", nargs="+", type=Path, default=[], metavar="FILE", help="to validate on")
    parser.add_argument(
        "--max-packed-mb", type=float, metavar="MB", help="take documents until the packed text is this large"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="instead of the description's")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="lower the priority by N, at most 19")


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of training."""
    add_pack_arguments(parser)
    parser.add_argument("--minutes", type=float, metavar="N", help="end about then; the schedule is laid over it")
    parser.add_argument("--steps", type=int, metavar="N", help="end after so many steps")
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, metavar="N", help="CPU workers; default: all processors")
    parser.add_argument("--compile", action="store_true", help="torch.compile, on CUDA")
    parser.add_argument("--save-minutes", type=float, default=3.0, metavar="N", help="default: %(default)s")


def run_train(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Trains, and exports at the end of the plan. 0 when finished, 3 when it was asked to stop and has saved."""
    _check_limits(args)
    from .export import export
    from .loop import Limit
    from .run import Machine, only_process, train

    description = _described(args)
    _lower_priority(args.nice)
    with only_process(args.out, description):
        machine = Machine(args.device, args.threads, args.compile, args.save_minutes * 60)
        if not train(args.out, description, _texts(args), Limit(args.steps, args.minutes), machine, say):
            return 3
        say(f"written: {export(args.out)}")
    return 0


def run_pack(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Trains the tokenizer and packs the text, so that OUT can travel to where it is trained."""
    _check_limits(args)
    from .run import only_process, open_corpus

    description = _described(args)
    _lower_priority(args.nice)
    with only_process(args.out, description):
        corpus = open_corpus(args.out, description, _texts(args), say)
    say(f"{corpus.folder}: {len(corpus.train):,} tokens to train on, {len(corpus.valid):,} to validate on")
    return 0


def run_export(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Writes the model, curve and card of the last saved state."""
    from .export import export

    say(f"written: {export(args.out, args.name)}")
    return 0


def _check_limits(args: argparse.Namespace) -> None:
    for name in ("minutes", "steps", "save_minutes", "max_packed_mb"):
        value = getattr(args, name, None)
        if value is not None and not 0 < value < 1e9:
            raise SetupError(f"--{name.replace('_', '-')} is {value:g}, it must be more than 0")


def _described(args: argparse.Namespace) -> "Description":
    from .description import read_description

    description = read_description(args.description)
    return description if args.seed is None else read_description(description.model_dump() | {"seed": args.seed})


def _texts(args: argparse.Namespace) -> "Texts":
    from .run import Texts

    max_bytes = None if args.max_packed_mb is None else int(args.max_packed_mb * 1e6)
    return Texts(args.text, args.valid, max_bytes)


def _lower_priority(by: int) -> None:
    if not 0 <= by <= 19:
        raise SetupError(f"--nice is {by}, it must be 0 to 19")
    if by:
        os.nice(by)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains from the command line. A user's mistake is one sentence on stderr and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m moesaic.bench.reference.train", description=__doc__, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_train_arguments(parser)
    try:
        return run_train(parser.parse_args(arguments), _say)
    except MoesaicError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
