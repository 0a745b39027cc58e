"""`moesaic eval` of a model that answers what its encoder reads: scored on pairs of a source and its answer."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .terminal import ProgressLine, print_table

if TYPE_CHECKING:
    from ..evaluate.pair_report import PairEvaluation
    from ..evaluate.pairs import Pair
    from ..models.checkpoint import Checkpoint

_OF_TEXT = ("truncate", "stride", "tasks", "tasks_dir", "limit", "floor", "training_text", "report", "max_context")


def is_of_pairs(args: argparse.Namespace) -> bool:
    """Whether the model of a command line is one of these."""
    from ..models.checkpoint import open_checkpoint

    return open_checkpoint(args.path).spec.reads_sources


def evaluate_pairs(args: argparse.Namespace) -> int:
    """Prints the figures of the model, and of the original beside it, and writes them where that is asked for."""
    from ..evaluate.pair_report import notes, table, write_report
    from ..models.files import write_whole

    _check(args)
    evaluation = _evaluated(args)
    print_table(*table(evaluation))
    for line in notes(evaluation):
        print(line)
    if args.json:
        write_whole(Path(args.json), json.dumps(evaluation.to_json(), indent=2).encode() + b"\n")
        print(f"written to {args.json}")
    if args.report:
        print(f"written: {', '.join(map(str, write_report(evaluation, Path(args.report))))}")
    return 0


def _evaluated(args: argparse.Namespace) -> "PairEvaluation":
    """The model, and the original where one is named, on the same pairs."""
    from ..evaluate.pair_report import PairEvaluation
    from ..evaluate.pairs import PairScore, compare_pairs, score_pairs, start_of, with_quality
    from ..evaluate.plan import MODEL, ORIGINAL
    from ..models.checkpoint import load_transformer, open_checkpoint
    from ..models.extras import can_measure_bleu

    names = {MODEL: args.path, **({ORIGINAL: args.against} if args.against else {})}
    checkpoints, scores = {name: open_checkpoint(path) for name, path in names.items()}, dict[str, PairScore]()
    first = checkpoints[MODEL]
    start, device, pairs = start_of(first), chosen_device(args), _read(args, first)
    with ProgressLine() as progress:
        for name, checkpoint in checkpoints.items():
            model = load_transformer(checkpoint, device, args.dtype)
            model.operating_point = first.operating_point(args.tier) if name == MODEL else 0
            found = score_pairs(model, pairs, start, partial(progress, "pairs scored"))
            if can_measure_bleu():
                found = with_quality(found, checkpoint, model, pairs, partial(progress, "sources answered"))
            scores[name] = found
    compared = compare_pairs(scores[MODEL], scores[ORIGINAL]) if args.against else {}
    return PairEvaluation(args.path, args.against, scores, compared)


def _read(args: argparse.Namespace, checkpoint: "Checkpoint") -> "list[Pair]":
    from ..evaluate.pairs import read_pairs
    from ..models.tokenizer import Tokenizer

    spec = checkpoint.spec
    most = (spec.encoder.max_context if spec.encoder else spec.max_context, spec.max_context)
    return read_pairs(args.text, Tokenizer.open(checkpoint.path), args.documents, most)


def chosen_device(args: argparse.Namespace) -> Any:
    """The device, with torch's threads set."""
    import torch

    from ..models.devices import choose_device
    from ..models.threads import choose_threads

    torch.set_num_threads(choose_threads(args.threads, 0))
    return choose_device(args.device)


def _check(args: argparse.Namespace) -> None:
    """Raises SetupError for what is asked of models that continue text, before any work."""
    from ..evaluate.files import check_can_report
    from ..models.checkpoint import open_checkpoint
    from ..models.errors import SetupError

    refuse_settings_of_text(args, "answers sources", "report")
    if args.report:
        check_can_report("--report", Path(args.report))
    if not args.text:
        raise SetupError(
            f'{args.path} answers what its encoder reads; name pairs with --text: lines of {{"source": "...", '
            '"target": "..."}'
        )
    if args.against and not open_checkpoint(args.against).spec.reads_sources:
        raise SetupError(
            f"{args.against} continues text, and {args.path} answers sources; name the model it was made of"
        )


def refuse_settings_of_text(args: argparse.Namespace, kind: str, but: str = "") -> None:
    """Raises SetupError, before any work, for what is asked of models that continue text. kind: what this one does;
    but: a setting that it has all the same.
    """
    from ..evaluate.plan import Plan
    from ..models.errors import SetupError
    from ..models.files import check_file

    Plan(args.path, documents=args.documents, truncate=args.truncate, threads=args.threads).check()
    asked = [name for name in _OF_TEXT if getattr(args, name, None) and name != but]
    if asked:
        option = asked[0].replace("_", "-")
        raise SetupError(f"--{option} is of models that continue text, and {args.path} {kind}; leave it out")
    if args.json:
        check_file(Path(args.json), f"--json {args.json}")
