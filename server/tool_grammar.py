"""The grammar of an answer that is calls of tools and nothing else, in the forms whose chat templates are known."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..models.tool_calls import ToolForm

_FORMS = {  # what stands before a call, between two, and behind one, and what its arguments are called
    ToolForm.TAGGED: ("<tool_call>\n", "\n", "\n</tool_call>", "arguments"),
    ToolForm.BARE: ("", "; ", "", "parameters"),
}
_AS_TEMPLATES_WRITE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

Schema = Mapping[str, Any]


def calls_grammar(form: ToolForm, tools: Sequence[tuple[str, Schema]], one: bool) -> str:
    """Of calls of these tools, by their names and the schemas of their arguments, in Lark's syntax.

    one: a single call, else one or more. The white space is that which chat templates write, so that a model is held to
    what it was taught. Raises ValueError for a form that nobody here can write.
    """
    if form not in _FORMS:
        raise ValueError(f"no calls are written in the form {form.value}")
    before, between, behind, arguments = _FORMS[form]
    rules = [f"start: call{'' if one else f' ({_literal(between)} call)*'}"]
    rules.append(f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}")
    for i, (name, schema) in enumerate(tools):
        begin = f'{before}{{"name": {json.dumps(name, ensure_ascii=False)}, "{arguments}": '
        rules.append(f"call_{i}: {_literal(begin)} arguments_{i} {_literal('}' + behind)}")
        rules.append(f"arguments_{i}: %json {json.dumps({**schema, 'x-guidance': _AS_TEMPLATES_WRITE})}")
    return "\n".join(rules)


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
