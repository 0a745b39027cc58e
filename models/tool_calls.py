"""Tools that a conversation names and calls of them: what a chat template is given, and the form they come back in."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from .errors import InvalidRequest, Violation

MOST_TOOLS = 128  # of a conversation, and calls of a message
MOST_LEVELS = 100
FIELD = "prompt.messages"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call. arguments: a JSON object."""

    name: str
    arguments: str


class Called(Protocol):
    """A call, ours or that of the wire."""

    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> str: ...


class ToolForm(Enum):
    """TAGGED: <tool_call> and JSON, as Hermes and Qwen do. BARE: JSON alone, with `parameters`, as Llama 3 does.

    OTHER: the template takes tools, and nobody here reads how its model writes calls.
    """

    TAGGED = "tagged"
    BARE = "bare"
    OTHER = "other"


def tool_form(template: str | None) -> ToolForm | None:
    """The form of a template; None for one that takes no tools."""
    if template is None or not re.search(r"\btools\b", template):
        return None
    if "<tool_call>" in template:
        return ToolForm.TAGGED
    return ToolForm.BARE if re.search(r"\bipython\b|<\|python_tag\|>", template) else ToolForm.OTHER


def call_for_template(call: Called, field: str) -> Mapping[str, Any]:
    """A call as templates take it, which write its arguments as JSON themselves."""
    arguments = json_object(call.arguments, f"{field}.arguments")
    return {"type": "function", "function": {"name": call.name, "arguments": arguments}}


def json_object(text: str, field: str) -> Mapping[str, Any]:
    """The object that a text is. Raises InvalidRequest for any other; it is not quoted."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping) or _is_deep(found):
        raise InvalidRequest([Violation(field, "is no JSON object, or one that is nested too deep")])
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _is_deep(value: object) -> bool:
    """Whether it is nested deeper than any of the functions that go through it could follow."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for each in level
            if isinstance(each, Mapping | list)
            for inner in (each.values() if isinstance(each, Mapping) else each)
        ]
        if not level:
            return False
    return True


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same value of JSON with every text changed, names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): mapped(each, change) for key, each in value.items()}
    return [mapped(each, change) for each in value] if isinstance(value, list) else value


def texts_in(value: Any) -> Iterator[str]:
    """All texts of a value of JSON, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in (*value, *value.values()) if isinstance(value, Mapping) else value:
            yield from texts_in(each)


def tool_violations(tools: Sequence[str], calls: Sequence[Sequence[Called]]) -> list[Violation]:
    """Too many tools, or calls of one message."""
    found = []
    if len(tools) > MOST_TOOLS:
        found.append(Violation(f"{FIELD}.tools", f"are {len(tools)}, the limit is {MOST_TOOLS}; name fewer"))
    for i, each in enumerate(calls):
        if len(each) > MOST_TOOLS:
            text = f"are {len(each)}, the limit is {MOST_TOOLS}; take some out"
            found.append(Violation(f"{FIELD}[{i}].tool_calls", text))
    return found


def tool_bytes(tools: Sequence[str], calls: Sequence[Sequence[Called]]) -> int:
    """What they hold together."""
    named = sum(len(call.name.encode()) + len(call.arguments.encode()) for each in calls for call in each)
    return named + sum(len(tool.encode()) for tool in tools)
