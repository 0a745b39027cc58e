"""The conversation of a chat request: contents are texts, or lists of texts."""

from collections.abc import Mapping
from typing import Any

from ...models.chat import MAX_MESSAGES, Message, messages_of
from ...models.errors import Violation
from ..status import MAX_VIOLATIONS
from .tools import calls_of

# What answers of other servers hold, and clients send back; empty, they say nothing.
_EMPTY_KEYS = ("refusal", "annotations", "audio", "function_call", "reasoning_content")


def messages_in(values: object) -> tuple[list[Message], list[Violation]]:
    """The messages, and all that is wrong with them."""
    if values is None:
        return [], [Violation("messages", "is not given; give at least one message", "EMPTY_PROMPT")]
    if not isinstance(values, list):
        return [], [Violation("messages", f"is of type {type(values).__name__}, it must be a list")]
    if not 0 < len(values) <= MAX_MESSAGES:
        text = f"has {len(values)} entries, it must have 1 to {MAX_MESSAGES}"
        return [], [Violation("messages", text, "INVALID_VALUE" if values else "EMPTY_PROMPT")]
    found: list[Violation] = []
    messages, wrong = messages_of([_plain(value, f"messages[{i}]", found) for i, value in enumerate(values)])
    return messages, [*found, *wrong]


def _plain(value: object, field: str, found: list[Violation]) -> object:
    """A message with its content as one text; what cannot be one is left for the check that follows."""
    if not isinstance(value, Mapping):
        return value
    plain = {key: each for key, each in value.items() if key not in _EMPTY_KEYS or each}
    if isinstance(plain.get("content"), list):
        plain["content"] = _joined(plain["content"], f"{field}.content", found)
    if plain.get("role") == "tool" and isinstance(plain.get("tool_call_id"), str):
        del plain["tool_call_id"]  # templates tell results by their order
    if not (calls := plain.pop("tool_calls", None)):
        return plain
    made = calls_of(calls, f"{field}.tool_calls", lambda *wrong: found.append(Violation(*wrong)))
    plain["content"] = "" if plain.get("content") is None else plain["content"]
    return Message(plain["role"], plain["content"], made) if plain.keys() == {"role", "content"} else plain


def _joined(parts: list[Any], field: str, found: list[Violation]) -> str:
    texts = []
    for i, part in enumerate(parts):
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            if len(found) >= MAX_VIOLATIONS:
                break
            message = 'is no {"type": "text", "text": ...}; no other content is read here'
            found.append(Violation(f"{field}[{i}]", message, "UNSUPPORTED_FIELD"))
    return "".join(texts)
