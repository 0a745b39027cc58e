"""`moesaic generate "prompt"`: ask a running server, streamed to the terminal."""

import argparse
import sys
from typing import Any

from .common import add_sampling_options, describe_tier


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("generate", help="continue a prompt on a running server")
    parser.add_argument("prompt", help='text to continue; "" starts from the begin token')
    parser.add_argument("--address", default="localhost:50051", help="default: %(default)s")
    parser.add_argument("--model", default="", help="a name from the server; not needed when it serves one model")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after this long")
    parser.add_argument("--seed", type=int, help="the same seed gives the same tokens")
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Streams the answer to stdout, then a line about it to stderr."""
    from ..server.client import Client

    with Client(args.address) as client:
        stream = client.stream(
            args.prompt, model=args.model, max_new_tokens=args.max_new_tokens, temperature=args.temperature,
            top_k=args.top_k, top_p=args.top_p, stop=args.stop, seed=args.seed, tier=args.tier, timeout=args.timeout,
        )  # fmt: skip
        for chunk in stream:
            print(chunk.text, end="", flush=True)
    print()
    if chunk.usage and chunk.finish_reason:
        usage = chunk.usage
        print(
            f"[{usage.prompt_tokens} prompt + {usage.completion_tokens} new tokens, "
            f"ended by {chunk.finish_reason.value}; {describe_tier(usage)}]",
            file=sys.stderr,
        )
    return 0
