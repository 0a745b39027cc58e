"""`moesaic eval PATH`: perplexity and next-token accuracy, alone or against an original."""

import argparse
import json
from pathlib import Path
from typing import Any

from .common import Progress, add_engine_options

EXAMPLES = """examples:
  moesaic eval stories260k
  moesaic eval out/int8 --against stories260k --text stories.txt --documents 120 --truncate 512

Texts are UTF-8, plain or .xz or .gz, documents separated by a line <|endoftext|>; or .jsonl with a field "text"."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "eval", help="score a model on text", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", help="model directory or short name")
    parser.add_argument("--against", metavar="ORIGINAL", help="compare with this model: KL and top-1 agreement")
    parser.add_argument("--text", nargs="+", metavar="FILE", help="default: chapters of Black Beauty, which ship")
    parser.add_argument("--documents", type=int, metavar="N", help="the first N documents only")
    parser.add_argument("--truncate", type=int, metavar="N", help="cut each document at N tokens")
    parser.add_argument("--json", metavar="FILE", help="write the figures, per document too")
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints tokens, nats per token, perplexity and top-1 accuracy."""
    from ..evaluate.run import evaluate
    from ..models.errors import SetupError

    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise SetupError(f"--json {args.json}: there is no directory {Path(args.json).parent}")
    progress = Progress()
    score = evaluate(
        args.path, args.against, args.text, args.documents, args.truncate,
        device=args.device, dtype=args.dtype, threads=args.threads, max_context=args.max_context,
        progress=lambda done, total: progress("documents scored", done, total),
    )  # fmt: skip
    figures = score.summary()
    print(f"{figures['tokens']:,} tokens of {figures['documents']} documents")
    print(f"{figures['nats_per_token']:.6f} nats per token")
    print(f"perplexity {figures['perplexity']:.4f}")
    print(f"top-1 accuracy {figures['top1_accuracy']:.2%}")
    if args.against:
        print(f"KL from {args.against}: {figures['kl_nats_per_token']:.6f} nats per token")
        print(f"top-1 agreement with {args.against}: {figures['top1_agreement']:.2%}")
    if args.json:
        _write(Path(args.json), {"model": args.path, "against": args.against, **figures, "per_document": score.rows()})
        print(f"written to {args.json}")
    return 0


def _write(file: Path, values: dict[str, Any]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(file)
