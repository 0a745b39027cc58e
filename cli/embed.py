"""`moesaic embed PATH TEXT...`: vectors of texts offline, by a model that is an encoder."""

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.options import EngineOptions
from ..models.sentences import POOLINGS
from ..models.setting import settings
from .common import add_setting
from .terminal import say

_OPTIONS = ("device", "dtype", "threads", "max_context")  # of an engine: those that an encoder has
if TYPE_CHECKING:
    from ..engine.embedding import Embedded

EXAMPLES = """examples:
  moesaic embed minilm "The cat sat on the mat." "A kitten rests."   # how alike they are
  moesaic embed minilm "The cat sat on the mat." --json
  moesaic embed ./my-encoder --pooling cls --no-normalise "A text" --json
  moesaic embed out/minilm "A text" "Another" --tier balanced"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "embed", help="make vectors of texts by an encoder", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="model directory or short name (moesaic models get minilm)")
    parser.add_argument("text", nargs="+", help="texts to embed")
    parser.add_argument("--pooling", choices=POOLINGS, help="default: as the model's directory has it, else mean")
    parser.add_argument(
        "--normalise",
        action=argparse.BooleanOptionalAction,
        help="to length 1; default: as the model's directory has it",
    )
    parser.add_argument("--truncate", action="store_true", help="cut a text that is longer than the model's window")
    parser.add_argument("--tier", default="full", metavar="TIER", help="how much of the weights to read")
    parser.add_argument("--json", action="store_true", help="the vectors themselves, an object a line")
    for name in _OPTIONS:
        add_setting(parser, settings(EngineOptions)[name], name)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints a line for each text: its cosines with all of them, or its vector as JSON; what ran to stderr."""
    from ..engine.llm import LLM

    llm = LLM(args.path, EngineOptions(*(getattr(args, name) for name in _OPTIONS)))
    found = llm.embed(
        args.text, pooling=args.pooling, normalised=args.normalise, truncate=args.truncate, tier=args.tier
    )
    about = llm.description
    size, width = f"{about.weight_bytes / 1e6:.4g} MB", len(found[0].values)
    say(
        f"{args.path}: {about.family}, {about.num_parameters / 1e6:.4g}M parameters in {size}; {about.device} "
        f"{about.dtype}; window {about.max_context}, vectors of {width}"
    )
    for line in _as_json(args.text, found) if args.json else _cosines(args.text, found):
        print(line)
    return 0


def _as_json(texts: Sequence[str], found: Sequence["Embedded"]) -> Iterator[str]:
    for text, each in zip(texts, found, strict=True):
        about = {"text": text, "num_tokens": each.num_tokens, "truncated": each.truncated}
        yield json.dumps(about | {"embedding": each.values}, ensure_ascii=False)


def _cosines(texts: Sequence[str], found: Sequence["Embedded"]) -> Iterator[str]:
    """Each text behind its cosines with all, which are what vectors are made for."""
    lengths = [sum(value * value for value in each.values) ** 0.5 or 1.0 for each in found]
    for text, each, length in zip(texts, found, lengths, strict=True):
        products = [sum(a * b for a, b in zip(each.values, other.values, strict=True)) for other in found]
        cosines = [product / length / other for product, other in zip(products, lengths, strict=True)]
        yield f"{' '.join(f'{cosine:7.4f}' for cosine in cosines)}  {text}"
