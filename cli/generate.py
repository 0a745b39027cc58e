"""`moesaic generate "prompt"`: ask a running server, streamed to the terminal."""

import argparse
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..engine.completion import Chunk
from .answers import show
from .chat import Messages, add_chat_options, check_chat_options, converse, first_messages
from .common import add_generation_options, describe_tier, settings_of
from .terminal import WaitingLine, say

if TYPE_CHECKING:
    from ..server.client import Client

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
    parser.add_argument(
        "--address", default="localhost:50051", help="https:// before it for TLS (default: %(default)s)"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="holds the token that the server asks for ($MOESAIC_TOKEN_FILE)"
    )
    parser.add_argument("--ca", metavar="FILE", help="PEM of who signed the server's certificate ($MOESAIC_CA)")
    parser.add_argument("--client-cert", metavar="FILE", help="what is shown to a server that asks for it, in PEM")
    parser.add_argument("--client-key", metavar="FILE", help="its private key")
    parser.add_argument("--model", default="", help="a name from the server; not needed when it serves one model")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="give up after this long, loading of the model included"
    )
    add_generation_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Streams the answer to stdout, then a line about it to stderr."""
    from ..server.client import Client

    check_chat_options(args)
    security: Any = {name: getattr(args, name) for name in ("token_file", "ca", "client_cert", "client_key")}
    with Client(args.address, retries=0, **security) as client, WaitingLine() as waiting:
        ask = partial(_answer, client, args, waiting)
        if args.prompt is None:
            return converse(first_messages(args), ask)
        whole = show(ask(first_messages(args) if args.chat else args.prompt))
    usage = whole.usage
    say(
        f"[{usage.prompt_tokens} prompt + {usage.completion_tokens} new tokens, "
        f"ended by {whole.finish_reason.value}; {describe_tier(usage)}]"
    )
    return 0


def _answer(
    client: "Client", args: argparse.Namespace, waiting: WaitingLine, prompt: str | Messages
) -> Iterator[Chunk]:
    """The chunks of an answer; says that it waits while the model loads."""
    from ..server.patience import when_loaded

    settings: Any = {**settings_of(args), "model": args.model}

    def send(timeout: float | None) -> Iterator[Chunk]:
        if isinstance(prompt, str):
            return client.stream(prompt, timeout=timeout, **settings)
        return client.stream_chat(prompt, timeout=timeout, **settings)

    def tell(model: str, seconds: float) -> None:
        waiting(f"waiting for {client.address} to load {model}", seconds)

    for chunk in when_loaded(client, send, args.model, args.timeout, tell):
        waiting.end()
        yield chunk
