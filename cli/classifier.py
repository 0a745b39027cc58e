"""`moesaic classifier MODEL OUT`: a model with a classifier of one's own labels, learned from examples."""

import argparse
from typing import Any

from .terminal import ProgressLine

EXAMPLES = """examples:
  moesaic classifier minilm out/reviews --examples reviews.train.tsv
  moesaic classify out/reviews "A fine film."
  moesaic eval out/reviews --tasks reviews.valid.tsv
  moesaic compress out/reviews out/reviews-int8 --recipe int8

A file of examples has a label, a tab and a text in each line. The model stays as it is; what is written is a checkpoint
of its family's ...ForSequenceClassification, which `transformers` opens too."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "classifier", help="make a classifier of a model from labelled examples", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", help="model directory or short name, of one without a classifier")
    parser.add_argument("out", help="directory to write; must not exist yet")
    parser.add_argument("--examples", metavar="FILE", required=True, help="a label, a tab and a text in each line")
    parser.add_argument("--most", type=int, metavar="N", help="learn from the first N examples only")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU, if there is one)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints what was learned, beside what the commonest label alone would get right."""
    from ..compress.classifier import train_classifier

    with ProgressLine() as progress:
        made = train_classifier(args.model, args.examples, args.out, args.most, progress, args.device, args.threads)
    total, counts = sum(made.counts.values()), ", ".join(f"{name} {count:,}" for name, count in made.counts.items())
    print(f"{args.out}: {len(made.counts)} labels ({counts})")
    print(
        f"{made.right:.2%} of the {total:,} examples that it learned from are right, the commonest label alone "
        f"{max(made.counts.values()) / total:.2%}; `moesaic eval` scores it on others"
    )
    return 0
