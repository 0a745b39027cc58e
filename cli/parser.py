"""A command line that guesses nothing: what it does not know is refused, with what was probably meant."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from ..models.suggestion import likely, suggestion
from .terminal import say_error


class Parser(argparse.ArgumentParser):
    """Refuses abbreviations, which a new option would change the meaning of.

    Also takes an optional prompt that stands behind an option, as in `run PATH --chat PROMPT`.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Usage and one sentence on stderr, and status 2."""
        self.print_usage(sys.stderr)
        say_error(message, self.prog)
        self.exit(2)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            flag = rest[0].partition("=")[0]
            meant = likely(flag, _asked(self, found)._option_string_actions) if flag.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{meant}")
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if len(rest) == 1 and getattr(found, "prompt", "") is None and not rest[0].startswith("-"):
            found.prompt = rest.pop()
        return found, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = suggestion(str(value), [str(choice) for choice in action.choices])
            raise argparse.ArgumentError(action, f"there is no {value!r}; {known}")


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of the words that may come first; none where a command takes no such word."""
    return next((each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)), {})


def share_examples(parser: argparse.ArgumentParser) -> None:
    """Gives every word below a command those of the command's examples that begin with it."""
    for word, below in commands_of(parser).items():
        lines = [line for line in (parser.epilog or "").splitlines() if f" {word} " in f"{line} "]
        if lines and not below.epilog:
            below.epilog = "\n".join(["examples:", *lines])
            below.formatter_class = argparse.RawDescriptionHelpFormatter


def _asked(parser: argparse.ArgumentParser, found: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the command that was typed."""
    for word in (str(found.command), str(getattr(found, "action", ""))):
        parser = commands_of(parser).get(word, parser)
    return parser
