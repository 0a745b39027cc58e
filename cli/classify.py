"""`moesaic classify PATH TEXT...`: labels of texts offline, by a model that has a classifier."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.options import EngineOptions
from ..models.setting import settings
from .common import add_setting
from .terminal import say

_OPTIONS = ("device", "dtype", "threads", "max_context")  # of an engine: those that a classifier has
if TYPE_CHECKING:
    from ..engine.classification import Classified

EXAMPLES = """examples:
  moesaic classify ./my-classifier "A fine film." "Two hours too long."
  moesaic classify ./my-classifier "A fine film." --json
  moesaic classifier minilm out/reviews --examples reviews.train.tsv   # makes one; then:
  moesaic classify out/reviews "A fine film."                          # asks it"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "classify", help="tell labels of texts by a classifier", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="model directory or short name")
    parser.add_argument("text", nargs="+", help="texts to classify")
    parser.add_argument("--truncate", action="store_true", help="cut a text that is longer than the model's window")
    parser.add_argument("--json", action="store_true", help="all scores and logits, an object a line")
    for name in _OPTIONS:
        add_setting(parser, settings(EngineOptions)[name], name)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each text: its labels with their scores, or all of it as JSON; what ran to stderr."""
    from ..engine.llm import LLM

    llm = LLM(args.path, EngineOptions(*(getattr(args, name) for name in _OPTIONS)))
    found = llm.classify(args.text, truncate=args.truncate)
    about = llm.description
    say(
        f"{args.path}: {about.family}, {about.num_parameters / 1e6:.4g}M parameters in "
        f"{about.weight_bytes / 1e6:.4g} MB; {about.device} {about.dtype}; window {about.max_context}, {about.room}"
    )
    for line in _as_json(args.text, found) if args.json else _best_first(args.text, found):
        print(line)
    return 0


def _as_json(texts: Sequence[str], found: Sequence["Classified"]) -> Iterator[str]:
    for text, each in zip(texts, found, strict=True):
        about = {"text": text, "num_tokens": each.num_tokens, "truncated": each.truncated, "label": each.label}
        yield json.dumps(about | {"scores": each.by_label, "logits": each.logits}, ensure_ascii=False)


def _best_first(texts: Sequence[str], found: Sequence["Classified"]) -> Iterator[str]:
    """The three labels with the largest scores, the largest first, and the text behind them."""
    for text, each in zip(texts, found, strict=True):
        best = sorted(zip(each.scores, each.labels, strict=True), key=lambda pair: -pair[0])[:3]
        yield f"{'  '.join(f'{label} {score:.4f}' for score, label in best)}  {text}"
