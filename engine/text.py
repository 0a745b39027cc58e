"""The edge where ids become text: characters are never split, stop strings never leak. No torch.

This is the one file of the engine's folder that knows text; the scheduler below it sees token ids only.
"""

from collections.abc import Sequence
from typing import Protocol

from ..models.errors import Violation

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
_CONTEXT_TOKENS = 6  # enough left context for a decoder to know whether a word starts with a space
_MAX_HELD_TOKENS = 64  # a character takes at most 4; bytes that never become one are shown as what they are
_REPLACEMENT = "\ufffd"  # what a decoder gives for the first bytes of an unfinished character


class Decoder(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...


class TextStream:
    """The text of one answer, as it may be shown. The pieces put together do not depend on how ids arrived.

    stopped: the stop string that matched, else None; after it no more text is given. num_tokens_used: tokens up to
    and including the one that completed the stop string.
    """

    def __init__(self, tokenizer: Decoder, prompt_ids: Sequence[int], stop_strings: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop_strings)
        self._ids = list(prompt_ids[-_CONTEXT_TOKENS:])
        self._begin = 0  # ids before it are no longer needed to decode
        self._read = len(self._ids)  # ids before it have been turned into text
        self._held = ""
        self.stopped: str | None = None
        self.num_tokens_used = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes new ids and gives the new text that may be shown now."""
        many = len(token_ids) > 1 and not self._stops
        if many and (text := self._decoded_at_once(token_ids)) is not None:
            self.num_tokens_used += len(token_ids)
            return text
        shown = ""
        for token_id in token_ids:
            if self.stopped is not None:
                break
            self.num_tokens_used += 1
            self._ids.append(token_id)
            shown += self._release(self._decoded())
        return shown

    def finish(self) -> str:
        """What was held back: half a stop string that never became one, an unfinished character."""
        if self.stopped is not None:
            return ""
        rest = self._release(self._decoded(even_unfinished=True)) + self._held
        self._held = ""
        return rest

    def _decoded_at_once(self, token_ids: Sequence[int]) -> str | None:
        """The text of all of them, where every byte belongs to a character and the last of them has text of its own:
        one by one they would have given the same. Else nothing is taken.
        """
        last = self._tokenizer.decode(token_ids[-1:])
        before = self._tokenizer.decode(self._ids[self._begin : self._read])
        text = self._tokenizer.decode([*self._ids[self._begin :], *token_ids])
        if not last or any(_REPLACEMENT in each for each in (last, before, text)):
            return None
        self._ids.extend(token_ids)
        self._begin, self._read = len(self._ids) - 1, len(self._ids)
        return text[len(before) :]

    def _decoded(self, even_unfinished: bool = False) -> str:
        """Text of the ids not yet read; "" while it ends inside a character."""
        before = self._tokenizer.decode(self._ids[self._begin : self._read])
        text = self._tokenizer.decode(self._ids[self._begin :])
        may_become_more = len(self._ids) - self._read < _MAX_HELD_TOKENS
        if text.endswith(_REPLACEMENT) and may_become_more and not even_unfinished:
            return ""
        if text != before:
            self._begin, self._read = self._read, len(self._ids)
        elif before:  # a special token, which is no left context for what follows
            del self._ids[self._read :]
        else:
            self._read = len(self._ids)
        return text[len(before) :]

    def _release(self, text: str) -> str:
        """Adds to what is held, and lets go of all that cannot be the start of a stop string."""
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.stopped = min(found)
            shown, self._held = self._held[:at], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown


def stop_string_violations(stop_strings: Sequence[str]) -> list[Violation]:
    """What is wrong with a list of stop strings: too many, too long, empty."""
    found = []
    if len(stop_strings) > MAX_STOP_STRINGS:
        message = f"has {len(stop_strings)} entries, the limit is {MAX_STOP_STRINGS}"
        found.append(Violation("stopping.stop_strings", message))
    for i, stop in enumerate(stop_strings[:MAX_STOP_STRINGS]):
        size = len(stop.encode(errors="replace"))
        if not 0 < size <= MAX_STOP_STRING_BYTES:
            message = f"has {size} bytes, it must have 1 to {MAX_STOP_STRING_BYTES}"
            found.append(Violation(f"stopping.stop_strings[{i}]", message))
    return found


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
