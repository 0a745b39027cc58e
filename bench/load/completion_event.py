"""One event of a stream of completions as OpenAI's API has it, read out of whatever a server sent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STREAM_ERROR = "error in the stream"
NO_COMPLETION = "an event that is no completion"
NO_COUNT = "usage that is no count of tokens"
_MOST_TOKENS = 1 << 31


@dataclass(frozen=True, slots=True)
class Part:
    """What an event brought: parts with text, and counts where the server tells them. failed: why it is no good."""

    texts: int = 0
    prompt_tokens: int | None = None
    all_tokens: int | None = None
    failed: str = ""


def read_part(text: bytes) -> Part:
    """Reads the data of an event; what is no completion is told in `failed`, never raised."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # brackets may be nested without end
        found = None
    if not isinstance(found, dict):
        return Part(failed=NO_COMPLETION)
    if found.get("error") is not None:
        return Part(failed=STREAM_ERROR)
    texts = _texts(found.get("choices"))
    return Part(failed=NO_COMPLETION) if texts is None else _counted(texts, found.get("usage"))


def _texts(choices: Any) -> int | None:
    """How many have text; None where they are no choices."""
    if choices is None:
        return 0
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        return None
    texts = [each.get("text") for each in choices]
    return sum(map(bool, texts)) if all(text is None or isinstance(text, str) for text in texts) else None


def _counted(texts: int, usage: Any) -> Part:
    if usage is None:
        return Part(texts)
    if not isinstance(usage, Mapping):
        return Part(texts, failed=NO_COUNT)
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Part(texts, prompt, answer) if _is_count(prompt) and _is_count(answer) else Part(texts, failed=NO_COUNT)


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value <= _MOST_TOKENS)
