"""Compress a model by int8 and MoEfication, and say what it kept at every tier.

    python examples/compress.py MODEL OUT [RECIPE]

MODEL is a directory in Hugging Face format or a short name, such as stories260k. RECIPE is a file or the name of one
that ships, as `moesaic recipes list` has them.
"""

import sys

import moesaic


def main(model: str, out: str, recipe: str = "moe") -> None:
    done = moesaic.compress(model, out, recipe)
    print(f"{done.bytes_before:,} bytes of weights became {done.bytes_after:,}")
    for tier, score in {"full": done.result, **done.tiers}.items():
        kept = score["top1_accuracy"] / done.original["top1_accuracy"]
        print(f"{tier}: perplexity {score['perplexity']:.2f}, {kept:.1%} of the right next tokens")


if __name__ == "__main__":
    main(*sys.argv[1:])
