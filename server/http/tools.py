"""The tools of a chat request, and the calls of an answer, as OpenAI has them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models.chat import NO_TOOLS
from ...models.errors import Unsupported
from ...models.suggestion import suggestion
from ...models.tool_calls import MOST_TOOLS, ToolCall, ToolForm
from ..generation import new_id
from ..status import cut
from ..tool_calls import CallReader, call_reader
from ..tool_grammar import calls_grammar

_MOST_NAME_CHARACTERS = 64  # of one that is compared with those there are
_CHOICE = '{"type": "function", "function": {"name": ...}}'
_SHAPE = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
Refuse = Callable[[str, str, str], None]  # a field, what is wrong with it, the reason


@dataclass(frozen=True, slots=True)
class Tools:
    """What may be called: names, the schemas of their arguments, and each tool as JSON, for the template.

    one: of several calls the first alone is wanted. forced: of which something must be called; empty leaves that to the
    model.
    """

    names: tuple[str, ...] = ()
    schemas: tuple[Mapping[str, Any], ...] = ()
    texts: tuple[str, ...] = ()
    one: bool = False
    forced: tuple[str, ...] = ()

    def reader(self, form: ToolForm | None) -> CallReader | None:
        """What finds the calls in one answer; None where none are wanted."""
        return call_reader(form, self.names) if self.names and form is not None else None

    def check(self, form: ToolForm | None) -> None:
        """Raises Unsupported for a model whose calls nobody here can read."""
        if self.names and form is ToolForm.OTHER:
            raise Unsupported(f"how this model writes calls of tools is not known here; {NO_TOOLS}")

    def grammar(self, form: ToolForm | None) -> str:
        """What an answer must be so that something is called; empty where nothing must, or by a model without tools,
        which refuses them.
        """
        if not self.forced or form is None:
            return ""
        wanted = [each for each in zip(self.names, self.schemas, strict=True) if each[0] in self.forced]
        return calls_grammar(form, wanted, self.one)


def tools_of(body: Mapping[str, Any], refuse: Refuse) -> Tools:
    """Those of a body; none where it wants none called."""
    given, choice, parallel = body.get("tools"), body.get("tool_choice"), body.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        refuse("parallel_tool_calls", "must be true or false", "INVALID_VALUE")
    if given is not None and not isinstance(given, list):
        refuse("tools", f"is of type {type(given).__name__}, it must be a list", "INVALID_VALUE")
    tools = given if isinstance(given, list) and choice != "none" else []
    if len(tools) > MOST_TOOLS:
        refuse("tools", f"are {len(tools)}, the limit is {MOST_TOOLS}; name fewer", "INVALID_VALUE")
        return Tools()
    found = [_function(tool) for tool in tools]
    for i, function in enumerate(found):
        if function is None:
            refuse(f"tools[{i}]", f"is no {_SHAPE}", "INVALID_VALUE")
    functions = [function for function in found if function is not None]
    names = tuple(name for name, _ in functions)
    texts = tuple(json.dumps(tool, ensure_ascii=False) for tool in tools)
    forced = _forced(choice, names, refuse)
    one = parallel is False or isinstance(choice, Mapping)
    return Tools(names, tuple(schema for _, schema in functions), texts, one, forced)


def _function(tool: object) -> tuple[str, Mapping[str, Any]] | None:
    """The name of a function and the schema of its arguments; None where it is another thing."""
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    schema = function.get("parameters") if isinstance(function, Mapping) else None
    schema = {"type": "object"} if schema is None else schema
    return (name, schema) if isinstance(name, str) and name and isinstance(schema, Mapping) else None


def _forced(choice: object, names: tuple[str, ...], refuse: Refuse) -> tuple[str, ...]:
    """The tools of which one must be called; empty where that is left to the model."""
    if choice is None or choice in ("auto", "none"):
        return ()
    if not names:
        refuse("tool_choice", "asks for a call, and tools names nothing that can be called", "INVALID_VALUE")
        return ()
    if choice == "required":
        return names
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        refuse("tool_choice", f"is none of auto, none, required and {_CHOICE}", "INVALID_VALUE")
    elif name not in names:
        meant = suggestion(cut(name, _MOST_NAME_CHARACTERS), names)
        refuse("tool_choice", f"names a tool that tools does not; {meant}", "INVALID_VALUE")
    return (name,) if isinstance(name, str) else ()


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
