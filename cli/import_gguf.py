"""`moesaic import FILE.gguf OUT`: a GGUF file as a model directory."""

import argparse
from typing import Any

from ..models.intake.registry import DTYPES
from .terminal import ProgressLine

EXAMPLES = """example:
  moesaic import SmolLM2-135M-Instruct.Q4_1.gguf smollm2 --dtype float16

Reads the architectures of docs/families.md that GGUF has, in 32 and 16 bits and in the quantized types of llama.cpp.
Weights are what the file says, dequantized; tokenizer, chat template and special tokens come along."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "import", help="make a model directory of a GGUF file", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", help="a .gguf file")
    parser.add_argument("out", help="new directory; it appears whole or not at all")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="bfloat16", help="of the weights on disk (default: bfloat16)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converts, then says what was made."""
    from ..models.checkpoint import open_checkpoint
    from ..models.gguf.reader import import_gguf

    with ProgressLine() as progress:
        made = open_checkpoint(import_gguf(args.file, args.out, args.dtype, progress))
    layers = len(made.spec.layers)
    print(f"{made.path}: {made.spec.family}, {layers} layers, {made.weight_bytes:,} bytes of weights in {args.dtype}")
    return 0
