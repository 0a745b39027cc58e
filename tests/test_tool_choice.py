"""Calls that must be made: what a real engine answers is held to them, whatever its model would rather say."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from http_caller import asked
from server_harness import free_port
from test_tools import BARE, TAGGED, model

from moesaic.bench.local_server import local_server
from moesaic.engine import guided
from moesaic.engine.constraint import Constraint
from moesaic.engine.guided import check_constraint
from moesaic.models.errors import Unsupported
from moesaic.models.tool_calls import ToolForm
from moesaic.server.http.tools import tools_of
from moesaic.server.tool_calls import calls_in
from moesaic.server.tool_grammar import calls_grammar

CITY = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Århus"]}}, "required": ["city"],
        "additionalProperties": False}  # fmt: skip


def tool(parameters: Any, name: str = "a") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER, CLOCK = tool(CITY, "weather"), tool({**CITY, "required": []}, "clock")
CHOSEN: Any = {"type": "function", "function": {"name": "weather"}}
FORMS = [ToolForm.TAGGED, ToolForm.BARE]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of models of both forms, and of one whose form nobody knows."""
    folder, port = tmp_path_factory.mktemp("models"), free_port()
    templates = {"tagged": TAGGED, "bare": BARE, "other": "{{ tools }}", "none": "{{ messages[0].content }}"}
    models = {name: model(folder / name, template) for name, template in templates.items()}
    with local_server(models, "--http-port", str(port)):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chat(web: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{web}/v1", api_key="none", max_retries=0) as client:
        yield client.chat.completions


def asking(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Once upon a time"}]
    return {"model": "tagged", "messages": messages, "tools": [CLOCK, WEATHER], "max_tokens": 250, **more}


@pytest.mark.parametrize("name", ["tagged", "bare"])
@pytest.mark.parametrize("seed", range(2))
def test_a_tool_that_is_chosen_is_called_once_by_its_schema(chat: Any, name: str, seed: int) -> None:
    (choice,) = chat.create(**asking(model=name, tool_choice=CHOSEN, seed=seed)).choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Oslo", "Århus")
    assert choice.finish_reason == "tool_calls" and choice.message.content is None


@pytest.mark.parametrize("name", ["tagged", "bare"])
def test_where_a_call_is_required_one_of_the_tools_is_called(chat: Any, name: str) -> None:
    required = asking(model=name, tool_choice="required", parallel_tool_calls=False)
    (choice,) = chat.create(**required).choices
    assert [call.function.name in ("weather", "clock") for call in choice.message.tool_calls] == [True]


def test_a_stream_tells_the_call_as_a_delta(chat: Any) -> None:
    parts = list(chat.create(**asking(tool_choice=CHOSEN, stream=True)))
    (call,) = [call for part in parts for call in part.choices[0].delta.tool_calls or ()]
    assert (call.index, call.function.name) == (0, "weather") and json.loads(call.function.arguments)
    assert not "".join(part.choices[0].delta.content or "" for part in parts)
    assert parts[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("form", FORMS)
def test_what_the_grammar_allows_is_read_as_calls(form: ToolForm) -> None:
    tools = [("clock", {}), ('a "b"\n', CITY)]
    call = {ToolForm.TAGGED: '<tool_call>\n{"name": "a \\"b\\"\\n", "arguments": {"city": "Oslo"}}\n</tool_call>',
            ToolForm.BARE: '{"name": "a \\"b\\"\\n", "parameters": {"city": "Oslo"}}'}[form]  # fmt: skip
    between = "\n" if form is ToolForm.TAGGED else "; "
    several = call + between + call
    assert accepted(calls_grammar(form, tools, True), call) and accepted(calls_grammar(form, tools, False), several)
    assert not accepted(calls_grammar(form, tools, True), several)
    assert not accepted(calls_grammar(form, tools, False), call.replace("Oslo", "Rome"))
    bare = several.replace("<tool_call>", "").replace("</tool_call>", "")
    assert len(calls_in(bare, [name for name, _ in tools])) == 2


def accepted(grammar: str, text: str) -> bool:
    """Whether a text is one that a grammar allows as a whole."""
    from llguidance import LLMatcher

    check_constraint(Constraint("grammar", (grammar,)))
    matcher = LLMatcher(guided._bytes(), LLMatcher.grammar_from_lark(grammar), log_level=0)
    data = text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


REFUSED = [
    ({"tool_choice": {"type": "function", "function": {"name": "wether"}}}, "tool_choice", "did you mean 'weather'?"),
    ({"tool_choice": "any"}, "tool_choice", "is none of auto, none, required and"),
    ({"tool_choice": {"type": "custom"}}, "tool_choice", "is none of auto"),
    ({"tool_choice": "required", "tools": []}, "tool_choice", "tools names nothing that can be called"),
    ({"tool_choice": CHOSEN, "response_format": {"type": "json_object"}}, "tool_choice", "response_format for another"),
    ({"tool_choice": CHOSEN, "moesaic": {"regex": "a"}}, "tool_choice", "moesaic.regex for another form"),
    ({"tools": [tool(3)]}, "tools[0]", "is no"),
    ({"tool_choice": "required", "tools": [tool({"type": "nothing"})]}, "tools", "cannot be followed"),
    ({"tool_choice": "required", "tools": [tool({"enum": ["b" * 70_000]})]}, "tools", "the limit is 65536"),
    ({"tool_choice": CHOSEN, "model": "other"}, None, "how this model writes calls of tools is not known here"),
    ({"tool_choice": CHOSEN, "model": "none"}, None, "takes no tools"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "field", "words"), REFUSED)
def test_a_choice_that_cannot_be_followed_is_refused(web: str, more: Any, field: str | None, words: str) -> None:
    code, body = asked(web, asking(**more), "/v1/chat/completions")
    assert code == 400 and body["error"]["param"] == field and words in body["error"]["message"], body


def test_without_the_extra_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    body = asking(tool_choice="required")
    grammar = tools_of(body, lambda *wrong: pytest.fail(str(wrong))).grammar(ToolForm.TAGGED)
    monkeypatch.setattr(guided, "find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"pip install 'moesaic\[guided\]'"):
        check_constraint(Constraint("grammar", (grammar,)))


def test_what_is_free_is_held_to_nothing() -> None:
    for choice in (None, "auto", "none"):
        assert tools_of(asking(tool_choice=choice), lambda *wrong: None).grammar(ToolForm.TAGGED) == ""
