"""The calls that a model writes into its answer, in the forms whose chat templates are known."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..models.tool_calls import ToolCall, ToolForm

_BEGIN, _END = "<tool_call>", "</tool_call>"
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class Piece:
    """What is known of an answer by now: more of its text, and calls."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


class CallReader(Protocol):
    """Reads one answer as it comes."""

    def push(self, text: str) -> Piece:
        """What a further part of it makes certain."""

    def finish(self) -> Piece:
        """The rest."""


def call_reader(form: ToolForm, names: Sequence[str]) -> CallReader:
    """One for answers of this form. What calls none of these names is text."""
    return TaggedCalls(names) if form is ToolForm.TAGGED else BareCalls(names)


class TaggedCalls:
    """JSON between <tool_call> and </tool_call>, text before and between, as Hermes and Qwen write it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._held = ""  # what may be a call, or white space that only text makes one of
        self._called = False

    def push(self, text: str) -> Piece:
        """Text up to where a call may begin, and calls that are whole."""
        self._held += text
        shown, calls = "", list[ToolCall]()
        while (begin := self._held.find(_BEGIN)) >= 0:
            shown += self._shown(len(self._held[:begin].rstrip()))
            end = self._held.find(_END)
            if end < 0:
                break
            whole, self._held = self._held[: end + len(_END)], self._held[end + len(_END) :]
            found = calls_in(whole.strip()[len(_BEGIN) : -len(_END)], self._names)
            shown += "" if found else whole
            calls += found
        else:
            shown += self._shown(len(_plain(self._held)))
        self._called = self._called or bool(calls)
        return Piece(shown, tuple(calls))

    def finish(self) -> Piece:
        """A call whose end is missing is one where its JSON is whole."""
        held, self._held = self._held, ""
        begun = held.lstrip().startswith(_BEGIN)
        if begun and (calls := calls_in(held.lstrip().removeprefix(_BEGIN), self._names)):
            return Piece(calls=calls)
        return Piece("" if self._called and not held.strip() else held)

    def _shown(self, length: int) -> str:
        """Lets go of so much of what is held."""
        shown, self._held = self._held[:length], self._held[length:]
        return shown


class BareCalls:
    """An answer that is JSON as a whole, objects with `;` between, as Llama 3 writes it; any other is text."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> Piece:
        """Text at once where it does not begin as a call does."""
        if self._is_text:
            return Piece(text)
        self._held += text
        begin = self._held.lstrip()
        if not begin or begin[0] == "{":
            return Piece()
        self._is_text = True
        return Piece(self._held)

    def finish(self) -> Piece:
        """The calls, or the text that looked like some."""
        if self._is_text:
            return Piece()
        calls = calls_in(self._held, self._names)
        return Piece(calls=calls) if calls else Piece(self._held)


def calls_in(text: str, names: Sequence[str]) -> tuple[ToolCall, ...]:
    """The calls of these names that a text is; none where it is anything else."""
    try:
        found = [_call(value) for value in _objects(text)]
    except (ValueError, RecursionError):
        return ()
    right = [call for call in found if call is not None and call.name in names]
    return tuple(right) if len(right) == len(found) else ()


def _objects(text: str) -> Iterator[object]:
    """The values of JSON that stand behind each other."""
    decoder, at = json.JSONDecoder(), 0
    while rest := text[at:].lstrip(" \n\r\t;"):
        value, length = decoder.raw_decode(rest)
        at = len(text) - len(rest) + length
        yield value


def _call(value: object) -> ToolCall | None:
    if not isinstance(value, Mapping) or not isinstance(name := value.get("name"), str):
        return None
    arguments: object = next((value[key] for key in _ARGUMENTS if key in value), {})
    if not isinstance(arguments, Mapping):
        return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def _plain(text: str) -> str:
    """The part of a text that is certain to be shown: no beginning of a call, and no white space in front of one."""
    longest = next((length for length in range(len(_BEGIN) - 1, 0, -1) if text.endswith(_BEGIN[:length])), 0)
    return text[: len(text) - longest].rstrip()
