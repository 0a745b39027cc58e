"""What the commands take, as the writers of completion scripts need to know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Hint:
    """What is offered: words, and files or directories beside them."""

    words: tuple[str, ...] = ()
    files: Literal["", "file", "directory"] = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """Something that stands behind a command. flags: none of a positional; hint: None of a flag without a value."""

    flags: tuple[str, ...]
    name: str
    help: str
    hint: Hint | None
    many: bool


@dataclass(frozen=True, slots=True)
class Command:
    """words: `models get`; below: of the words that may come next, what they do."""

    words: tuple[str, ...]
    below: Mapping[str, str]
    arguments: tuple[Argument, ...]

    @property
    def name(self) -> str:
        return " ".join(self.words)

    @property
    def options(self) -> list[Argument]:
        return [each for each in self.arguments if each.flags]

    @property
    def places(self) -> list[Argument]:
        """The positional arguments, in their order."""
        return [each for each in self.arguments if not each.flags]
