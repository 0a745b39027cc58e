"""`moesaic eval` of an encoder: whether queries find their passages, and how alike its vectors are to an original's."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .figures import VECTOR_FIGURES, cells
from .pairs import chosen_device, refuse_settings_of_text
from .terminal import ProgressLine, print_table

if TYPE_CHECKING:
    from ..evaluate.embeddings import Retrieval
    from ..models.checkpoint import Checkpoint
    from ..models.sentences import Sentences


def is_of_vectors(args: argparse.Namespace) -> bool:
    """Whether the model of a command line is an encoder whose vectors are asked about, and no tasks."""
    from ..models.checkpoint import open_checkpoint

    spec = open_checkpoint(args.path).spec
    return not (args.tasks or args.tasks_dir or spec.continues_text or spec.classifies)


def evaluate_vectors(args: argparse.Namespace) -> int:
    """Prints the figures of the model, with the original's beside it and what differences are worth; writes them where
    that is asked for.
    """
    from ..evaluate.embeddings import compare_vectors, score_vectors, vectors_of
    from ..evaluate.results import comparison_json
    from ..models.checkpoint import load_transformer, open_checkpoint
    from ..models.errors import SetupError
    from ..models.files import write_whole
    from ..models.sentences import Sentences

    model = open_checkpoint(args.path)
    refuse_settings_of_text(args, f"is {model.spec.kind}", "truncate")
    against = open_checkpoint(args.against) if args.against else None
    if against and against.spec.continues_text:
        raise SetupError(
            f"{args.against} continues text, and {args.path} is {model.spec.kind}; name the model it was made of"
        )
    sentences, device = Sentences.open(model.path), chosen_device(args)
    material, vectors = _material(args, model, sentences), {}
    with ProgressLine() as progress:
        for name, checkpoint in {"model": model, **({"original": against} if against else {})}.items():
            loaded = load_transformer(checkpoint, device, args.dtype)
            loaded.operating_point = model.operating_point(args.tier) if name == "model" else 0
            say = f"vectors of the {name}"
            vectors[name] = vectors_of(loaded, material.texts, sentences.pooling.kind, partial(progress, say))
    original = vectors.get("original")
    scores = {name: score_vectors(each, material, original) for name, each in vectors.items()}
    compared = compare_vectors(scores["model"], scores["original"]) if against else {}
    found: dict[str, Any] = {name: score.to_json() for name, score in scores.items()}
    print_table(
        ["", *(head for head, _ in VECTOR_FIGURES.values())],
        [[name, *cells(figures, VECTOR_FIGURES)] for name, figures in found.items()],
    )
    for name, each in compared.items():
        low, high = each.difference_interval.low, each.difference_interval.high
        told = "" if each.sign else ", no difference shown"
        print(
            f"{VECTOR_FIGURES[name][0]} against the original: {each.difference:+.4f} ({low:+.4f} to {high:+.4f}){told}"
        )
    print(f"{len(material.queries):,} queries, each for its passage among all; {material.num_tokens:,} tokens")
    if args.json:
        comparisons = {name: comparison_json(each) for name, each in compared.items()}
        figures = {"model": args.path, "against": args.against, **scores["model"].summary(), "scores": found}
        write_whole(Path(args.json), json.dumps(figures | {"comparisons": comparisons}, indent=2).encode() + b"\n")
        print(f"written to {args.json}")
    return 0


def _material(args: argparse.Namespace, model: "Checkpoint", sentences: "Sentences") -> "Retrieval":
    """Pairs of a query and its passage where files have these, else documents, whose first half asks for the second."""
    from ..evaluate.embeddings import Retrieval
    from ..evaluate.pairs import is_pairs, read_pairs
    from ..evaluate.texts import embedded_text, encode_documents, read_documents
    from ..models.tokenizer import Tokenizer

    tokenizer, window = Tokenizer.open(model.path), sentences.window_within(model.spec.max_context)
    files = [Path(file) for file in args.text] or [embedded_text()]
    if all(map(is_pairs, files)):
        pairs = read_pairs(files, tokenizer, args.documents, (window, window), ended=False)
        return Retrieval.of_pairs([(pair.source, pair.answer) for pair in pairs])
    documents = read_documents(files, args.documents)
    encoded = encode_documents(documents, tokenizer, args.truncate, model.spec.vocab_size)
    return Retrieval.of_halves(encoded, tokenizer, window)
