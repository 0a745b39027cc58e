"""What `run --chat` and `generate --chat` share: their options, and the conversation on a terminal."""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..engine.completion import Chunk
from ..engine.request import FinishReason
from ..models.errors import InvalidRequest
from .answers import show
from .terminal import say, say_error

Messages = list[dict[str, str]]
RESET = "/reset"


def add_chat_options(parser: argparse.ArgumentParser) -> None:
    """The prompt, which may be left out of a chat, and how a chat is begun."""
    parser.add_argument(
        "prompt", nargs="?", help='text to continue; "" starts from the begin token; without it --chat converses'
    )
    parser.add_argument("--chat", action="store_true", help="the prompt is a message, in the model's own chat template")
    parser.add_argument("--system", metavar="TEXT", help="with --chat: the system message that comes first")
    parser.set_defaults(refuse=parser.error)


def check_chat_options(args: argparse.Namespace) -> None:
    """Ends with a line of usage where they do not fit together."""
    if args.prompt is None and not args.chat:
        args.refuse("give a prompt, or --chat for a conversation")
    if args.system is not None and not args.chat:
        args.refuse("--system is for --chat; add it")


def first_messages(args: argparse.Namespace) -> Messages:
    """The system message where there is one, then the prompt where there is one."""
    given = (("system", args.system), ("user", args.prompt))
    return [{"role": role, "content": text} for role, text in given if text is not None]


def converse(messages: Messages, ask: Callable[[Messages], Iterator[Chunk]]) -> int:
    """A turn for every line of standard input, up to its end; /reset goes back to how it began.

    A turn that is refused is told and forgotten.
    """
    history = list(messages)
    for line in _lines():
        if line.strip() == RESET:
            history = list(messages)
            continue
        history.append({"role": "user", "content": line})
        try:
            history.append({"role": "assistant", "content": _shown(ask(history))})
        except InvalidRequest as error:
            history.pop()
            say_error(f"{error}; {RESET} begins anew")
    return 0


def _lines() -> Iterator[str]:
    """What is typed, without empty lines; on a terminal behind a prompt, with line editing."""
    live = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no Unicode is refused with its turn
    if live:
        say(f"A conversation: Ctrl-D ends it, {RESET} begins anew.")
        with suppress(ImportError):
            import readline  # noqa: F401  # input() then edits and remembers lines
    while True:
        try:
            line = input("> " if live else "")
        except EOFError:
            print(end="\n" if live else "")
            return
        if line.strip():
            yield line


def _shown(chunks: Iterator[Chunk]) -> str:
    whole = show(chunks)
    if whole.finish_reason is FinishReason.LENGTH:
        say("[cut off; --max-new-tokens allows more]")
    return whole.text
