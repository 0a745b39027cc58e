"""`moesaic eval` of a model that answers what its encoder reads: scored on pairs of a source and its answer."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .terminal import ProgressLine, print_table

if TYPE_CHECKING:
    from ..evaluate.pairs import Pair
    from ..models.checkpoint import Checkpoint

_OF_TEXT = ("truncate", "stride", "tasks", "tasks_dir", "limit", "floor", "training_text", "report", "max_context")


def is_of_pairs(args: argparse.Namespace) -> bool:
    """Whether the model of a command line is one of these."""
    from ..models.checkpoint import open_checkpoint

    return open_checkpoint(args.path).spec.reads_sources


def evaluate_pairs(args: argparse.Namespace) -> int:
    """Prints the figures of the model, and of the original beside it, and writes them where that is asked for."""
    from ..evaluate.pairs import PairScore, compare_pairs, score_pairs, start_of
    from ..evaluate.results import comparison_json
    from ..models.checkpoint import load_transformer, open_checkpoint
    from ..models.files import write_whole

    _check(args)
    names = {"model": args.path, **({"original": args.against} if args.against else {})}
    checkpoints = {name: open_checkpoint(path) for name, path in names.items()}
    first, found, scores = checkpoints["model"], dict[str, dict[str, Any]](), dict[str, PairScore]()
    start, device, pairs = start_of(first), chosen_device(args), _read(args, first)
    with ProgressLine() as progress:
        for name, checkpoint in checkpoints.items():
            model = load_transformer(checkpoint, device, args.dtype)
            model.operating_point = first.operating_point(args.tier) if name == "model" else 0
            scores[name] = score_pairs(model, pairs, start, lambda done, of: progress("pairs scored", done, of))
            found[name] = scores[name].summary()
    rows = [
        [
            name, f"{of['nats_per_token']:.6f}", f"{of['perplexity']:.4f}", f"{of['top1_accuracy']:.2%}",
            f"{of['exact_match']:.2%}",
        ]
        for name, of in found.items()
    ]  # fmt: skip
    print_table(["", "nats per token", "perplexity", "top-1 accuracy", "exact match"], rows)
    compared = compare_pairs(scores["model"], scores["original"]) if args.against else {}
    for name, each in compared.items():
        low, high = each.difference_interval.low, each.difference_interval.high
        told = "" if each.sign else ", no difference shown"
        what = "nats per token" if name == "perplexity" else name.replace("_", " ")
        print(f"{what} against the original: {each.difference:+.4f} ({low:+.4f} to {high:+.4f}){told}")
    print(f"scored on {found['model']['tokens']:,} tokens of {found['model']['documents']:,} answers")
    if args.json:
        figures = {"model": args.path, "against": args.against, **found["model"], "scores": found}
        figures |= {"comparisons": {name: comparison_json(each) for name, each in compared.items()}}
        write_whole(Path(args.json), json.dumps(figures, indent=2).encode() + b"\n")
        print(f"written to {args.json}")
    return 0


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
    from ..models.checkpoint import open_checkpoint
    from ..models.errors import SetupError

    refuse_settings_of_text(args, "answers sources")
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
