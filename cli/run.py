"""`moesaic run PATH "prompt"`: continue a prompt offline, streamed to the terminal."""

import argparse
from collections.abc import Iterator
from typing import Any

from ..engine.completion import Chunk
from .answers import show
from .chat import Messages, add_chat_options, check_chat_options, converse, first_messages
from .common import add_engine_options, add_generation_options, describe, describe_tier, engine_options, settings_of
from .terminal import say

EXAMPLES = """examples:
  moesaic run stories260k "Once upon a time" --max-new-tokens 60
  moesaic run smollm2 --chat "What is the capital of France?"
  moesaic run smollm2 --chat --system "Answer in French."       # a conversation; Ctrl-D ends it
  moesaic run ./my-model "The capital of France is" --temperature 0.8 --min-p 0.1"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="continue a prompt offline", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "path",
        help="model directory, short name (stories260k ships with the package), or hf:ORGANISATION/MODEL, once "
        "`moesaic models get` has it",
    )
    add_chat_options(parser)
    add_generation_options(parser, without=("seed",))  # the engine has one here
    add_engine_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Streams the answer to stdout; what ran, and how fast, to stderr."""
    from ..engine.llm import LLM

    check_chat_options(args)
    llm = LLM(args.path, engine_options(args, num_slots=max(1, args.n or 1)))
    say(describe(args.path, llm.description))
    settings = settings_of(args)

    def ask(messages: Messages) -> Iterator[Chunk]:
        return llm.stream_chat(messages, **settings)

    if args.prompt is None:
        llm.chat_template.require()
        return converse(first_messages(args), ask)
    whole = show(ask(first_messages(args)) if args.chat else llm.stream(args.prompt, **settings))
    made, timing = whole.usage.completion_tokens, whole.timing
    rate = f", {(made - 1) / timing.decode_seconds:.4g} tokens/s after" if made > 1 and timing.decode_seconds else ""
    say(
        f"[{whole.usage.prompt_tokens} prompt + {made} new tokens, ended by {whole.finish_reason.value}; "
        f"prefill {timing.prefill_seconds * 1e3:.3g} ms{rate}; {describe_tier(whole.usage)}]"
    )
    return 0
