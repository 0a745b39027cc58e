"""`moesaic export PATH OUT --to dense|compressed-tensors|gguf`: a directory that other loaders open."""

import argparse
from typing import Any

EXAMPLES = """examples:
  moesaic export out/pruned out/plain --to dense
  moesaic export out/all-four out/plain --to dense --dtype float32
  moesaic export out/w8a8 out/int8 --to compressed-tensors
  moesaic export out/pruned out/file --to gguf --kind Q4_0            # out/file/pruned-Q4_0.gguf"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "export", help="write a model for other loaders", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("path", help="model directory or short name")
    parser.add_argument("out", help="new directory; it appears whole or not at all")
    parser.add_argument(
        "--to", choices=["dense", "compressed-tensors", "gguf"], required=True,
        help="dense: 16 or 32 bit, equal layers, no experts; compressed-tensors: int8 weights and activations, as "
        "transformers reads them; gguf: a file for llama.cpp, with the tokenizer",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="of what is not int8"
    )
    parser.add_argument(
        "--kind",
        choices=["F32", "F16", "BF16", "Q8_0", "Q4_0"],
        default="Q8_0",
        help="of matrices in a GGUF file (default: Q8_0)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes it and says what it is."""
    from ..compress.export import export

    spec = export(args.path, args.out, args.to, args.dtype, args.kind)
    kept = args.kind if args.to == "gguf" else args.dtype
    print(f"{args.out}: {spec.family}, {len(spec.layers)} layers, FFN {spec.layers[0].ffn.width}, {kept}")
    return 0
