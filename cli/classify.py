"""`moesaic classify PATH TEXT...`: labels of texts offline, and a classifier of one's own from labelled examples."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.options import EngineOptions
from ..models.setting import settings
from .common import add_setting
from .terminal import ProgressLine, say

_OPTIONS = ("device", "dtype", "threads", "max_context")  # of an engine: those that a classifier has
if TYPE_CHECKING:
    from ..engine.classification import Classified

EXAMPLES = """examples:
  moesaic classify ./my-classifier "A fine film." "Two hours too long."
  moesaic classify ./my-classifier "A fine film." --json
  moesaic classify minilm --train reviews.train.tsv --out out/reviews "A fine film."   # makes one, and asks it

A file of --train has a label, a tab and a text in each line. What is written is a checkpoint of the family's
...ForSequenceClassification, which `transformers` opens too; `moesaic eval OUT --tasks reviews.valid.tsv` scores it."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "classify", help="tell labels of texts by a classifier, or make one from examples", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="model directory or short name")
    parser.add_argument("text", nargs="*", help="texts to classify")
    parser.add_argument("--truncate", action="store_true", help="cut a text that is longer than the model's window")
    parser.add_argument("--json", action="store_true", help="all scores and logits, an object a line")
    group = parser.add_argument_group("making a classifier of a model that has none")
    group.add_argument("--train", metavar="FILE", help="labelled examples: a label, a tab and a text in each line")
    group.add_argument("--out", metavar="DIR", help="a new directory for the model with its classifier")
    group.add_argument("--most", type=int, metavar="N", help="learn from the first N examples only")
    for name in _OPTIONS:
        add_setting(parser, settings(EngineOptions)[name], name)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each text: its labels with their scores, or all of it as JSON; what ran to stderr."""
    from ..models.errors import SetupError

    if (args.train is None) != (args.out is None):
        raise SetupError("--train FILE and --out DIR make a classifier together; give both of them, or neither")
    if args.train is None and args.most is not None:
        raise SetupError(f"--most {args.most} is of --train FILE; leave it out, or give examples to learn from")
    if args.train is None and not args.text:
        raise SetupError("there is no text to classify; name one, or make a classifier with --train FILE --out DIR")
    if args.train is not None:
        _train(args)
    if args.text:
        _classify(args.out or args.path, args)
    return 0


def _train(args: argparse.Namespace) -> None:
    from ..compress.classifier import train_classifier

    with ProgressLine() as progress:
        made = train_classifier(args.path, args.train, args.out, args.most, progress, args.device, args.threads)
    counts = ", ".join(f"{name} {count:,}" for name, count in made.counts.items())
    print(f"{args.out}: a classifier of {len(made.counts)} labels ({counts})")
    print(
        f"{made.right:.2%} of the {sum(made.counts.values()):,} examples that it learned from are right, the commonest "
        f"label alone {max(made.counts.values()) / sum(made.counts.values()):.2%}; score it on others"
    )


def _classify(model: str, args: argparse.Namespace) -> None:
    from ..engine.llm import LLM

    llm = LLM(model, EngineOptions(*(getattr(args, name) for name in _OPTIONS)))
    found = llm.classify(args.text, truncate=args.truncate)
    about = llm.description
    say(
        f"{model}: {about.family}, {about.num_parameters / 1e6:.4g}M parameters in {about.weight_bytes / 1e6:.4g} MB; "
        f"{about.device} {about.dtype}; window {about.max_context}, {about.room}"
    )
    for line in _as_json(args.text, found) if args.json else _best_first(args.text, found):
        print(line)


def _as_json(texts: Sequence[str], found: Sequence["Classified"]) -> Iterator[str]:
    for text, each in zip(texts, found, strict=True):
        about = {"text": text, "num_tokens": each.num_tokens, "truncated": each.truncated, "label": each.label}
        yield json.dumps(about | {"scores": each.by_label, "logits": each.logits}, ensure_ascii=False)


def _best_first(texts: Sequence[str], found: Sequence["Classified"]) -> Iterator[str]:
    """The labels with the largest scores, the first of them alone in its column, and the text behind them."""
    for text, each in zip(texts, found, strict=True):
        best = sorted(zip(each.scores, each.labels, strict=True), key=lambda pair: -pair[0])[:3]
        yield f"{'  '.join(f'{label} {score:.4f}' for score, label in best)}  {text}"
