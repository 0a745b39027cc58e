"""`moesaic generate "prompt"`: ask a running server, streamed to the terminal."""

import argparse
import sys
from typing import Any

from .chat import Messages, add_chat_options, check_chat_options, converse, first_messages
from .common import add_generation_options, describe_tier, settings_of

EXAMPLES = """examples:
  moesaic generate "Once upon a time"
  moesaic generate "The old horse" --tier low --max-new-tokens 64
  moesaic generate --chat "What is the capital of France?" --address localhost:50052"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "generate", help="continue a prompt on a running server", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_chat_options(parser)
    parser.add_argument("--address", default="localhost:50051", help="default: %(default)s")
    parser.add_argument("--model", default="", help="a name from the server; not needed when it serves one model")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after this long")
    add_generation_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Streams the answer to stdout, then a line about it to stderr."""
    from ..server.client import Client, Stream

    check_chat_options(args)
    settings: Any = {**settings_of(args), "model": args.model, "timeout": args.timeout}
    with Client(args.address) as client:

        def ask(messages: Messages) -> Stream:
            return client.stream_chat(messages, **settings)

        if args.prompt is None:
            return converse(first_messages(args), ask)
        for chunk in ask(first_messages(args)) if args.chat else client.stream(args.prompt, **settings):
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
