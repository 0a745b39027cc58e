"""`moesaic compress MODEL OUT --recipe NAME`: run a recipe and show what it kept."""

import argparse
from collections.abc import Mapping
from typing import Any

from .common import Progress, table


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("compress", help="make a model smaller by a recipe")
    parser.add_argument("model", help="model directory or short name")
    parser.add_argument("out", help="new directory; it appears whole or not at all")
    parser.add_argument("--recipe", default="int8", help="YAML file, or a name from `moesaic recipes list`")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say the sizes, write nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compresses, then prints bytes and scores before and after."""
    from ..compress.pipeline import compress

    done = compress(args.model, args.out, args.recipe, Progress(), args.dry_run)
    ratio = done.bytes_after / done.bytes_before
    if args.dry_run:
        sizes = f"{done.bytes_before:,} -> {done.bytes_after:,} bytes of weights ({ratio:.3f}x)"
        print(f"{args.recipe}: {sizes}; nothing written")
        return 0
    if done.already_there:
        print(f"{done.out} is already the result of this recipe on this model")
    head = ["", "bytes of weights", "perplexity", "top-1", "KL, nats/token", "agreement"]
    print(
        table(head, [_row("original", done.bytes_before, done.original), _row("result", done.bytes_after, done.result)])
    )
    print(f"{ratio:.3f}x the bytes; scored on {done.result['tokens']:,} tokens; written to {done.out}")
    return 0


def _row(name: str, num_bytes: int, figures: Mapping[str, float | int]) -> list[str]:
    compared = "kl_nats_per_token" in figures
    return [
        name, f"{num_bytes:,}", f"{figures['perplexity']:.4f}", f"{figures['top1_accuracy']:.2%}",
        f"{figures['kl_nats_per_token']:.5f}" if compared else "",
        f"{figures['top1_agreement']:.2%}" if compared else "",
    ]  # fmt: skip
