"""The tools of a chat request, and the calls of an answer, as OpenAI has them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models.chat import NO_TOOLS
from ...models.errors import Unsupported
from ...models.tool_calls import MOST_TOOLS, ToolCall, ToolForm
from ..generation import new_id
from ..tool_calls import CallReader, call_reader

_SHAPE = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
Refuse = Callable[[str, str, str], None]  # a field, what is wrong with it, the reason


@dataclass(frozen=True, slots=True)
class Tools:
    """What may be called: names, and each as JSON. one: of several calls the first alone is wanted."""

    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    one: bool = False

    def reader(self, form: ToolForm | None) -> CallReader | None:
        """What finds the calls in one answer; None where none are wanted."""
        return call_reader(form, self.names) if self.names and form is not None else None

    def check(self, form: ToolForm | None) -> None:
        """Raises Unsupported for a model whose calls nobody here can read."""
        if self.names and form is ToolForm.OTHER:
            raise Unsupported(f"how this model writes calls of tools is not known here; {NO_TOOLS}")


def tools_of(body: Mapping[str, Any], refuse: Refuse) -> Tools:
    """Those of a body; none where it wants none called."""
    given, choice, parallel = body.get("tools"), body.get("tool_choice"), body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        refuse("parallel_tool_calls", "must be true or false", "INVALID_VALUE")
    if not (choice is None or choice in ("auto", "none")):
        text = "asks that something be called; the model itself decides that here: auto or none"
        refuse("tool_choice", text, "UNSUPPORTED_FIELD")
    if given is not None and not isinstance(given, list):
        refuse("tools", f"is of type {type(given).__name__}, it must be a list", "INVALID_VALUE")
    if not isinstance(given, list) or choice == "none":
        return Tools()
    if len(given) > MOST_TOOLS:
        refuse("tools", f"are {len(given)}, the limit is {MOST_TOOLS}; name fewer", "INVALID_VALUE")
        return Tools()
    for i, tool in enumerate(given):
        if _name(tool) is None:
            refuse(f"tools[{i}]", f"is no {_SHAPE}", "INVALID_VALUE")
    names = [name for tool in given if (name := _name(tool))]
    return Tools(tuple(names), tuple(json.dumps(tool, ensure_ascii=False) for tool in given), parallel is False)


def _name(tool: object) -> str | None:
    """Of a function; None where it is another thing."""
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) and name else None


def calls_of(values: object, field: str, refuse: Refuse) -> tuple[ToolCall, ...]:
    """The calls that a message of the assistant says it made."""
    found = []
    for i, value in enumerate(values if isinstance(values, list) else [None]):
        function = value.get("function") if isinstance(value, Mapping) else None
        given = function if isinstance(function, Mapping) else {}
        name, arguments = given.get("name"), given.get("arguments")
        if isinstance(name, str) and name and isinstance(arguments, str):
            found.append(ToolCall(name, arguments or "{}"))
        else:
            text = 'is no {"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'
            refuse(f"{field}[{i}]" if isinstance(values, list) else field, text, "INVALID_VALUE")
            break
    return tuple(found)


def call_objects(calls: Sequence[ToolCall], first: int) -> list[dict[str, Any]]:
    """The calls of an answer, numbered from `first`."""
    return [
        {
            "index": first + i,
            "id": f"call_{new_id()[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for i, call in enumerate(calls)
    ]
