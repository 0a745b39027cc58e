"""Tools at OpenAI's door: what a template is given, and the calls that are found in answers, which an echo says."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from chat_forms import write_tokenizer
from http_caller import asked
from patience import PATIENCE_SECONDS
from server_harness import Server

from moesaic.models.chat import ChatTemplate, Message
from moesaic.models.errors import InvalidRequest, Unsupported
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer
from moesaic.models.tool_calls import ToolCall, ToolForm, tool_form
from moesaic.proto import generation_pb2 as pb
from moesaic.server.tool_calls import Piece, call_reader

# It writes the first message as it is, so that an echo of it is an answer of our choice.
TAGGED = "{% if tools and false %}<tool_call>{% endif %}{{ messages[0].content }}"
BARE = "{% if tools and false %}Environment: ipython{% endif %}{{ messages[0].content }}"
QWEN = """{% if tools %}# Tools{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}"""
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Århus"}}\n</tool_call>'
LLAMA_CALL = '{"name": "weather", "parameters": {"city": "Oslo"}}'
MADE_WRONG = {"id": "a", "type": "function", "function": {"name": "\ud800", "arguments": "{}"}}
MADE = ToolCall("weather", '{"city": "Oslo"}')


def model(folder: Path, template: str) -> Path:
    """A model of this template."""
    shutil.copytree(locate("stories260k"), folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    model(folder / "bare", BARE)
    model(folder / "other", "{{ tools }}")
    with Server(path=str(model(folder / "tagged", TAGGED)), http=True) as server, server.admin() as admin:
        for name in ("bare", "other"):
            admin.load_model(name, str(folder / name))
        yield server


@pytest.fixture(scope="module")
def tools_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """One whose template writes out all that it is given."""
    folder = model(tmp_path_factory.mktemp("qwen") / "qwen", QWEN)
    with Server(path=str(folder)) as server:
        yield server, folder


@pytest.fixture(scope="module")
def chat(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.web}/v1", api_key="none", max_retries=0) as client:
        yield client.chat.completions


def said(text: str, **more: Any) -> dict[str, Any]:
    """A request that is answered by this text, once."""
    length = len(Tokenizer.open(locate("stories260k")).encode_rendered(text))
    asking = {
        "model": "echo",
        "messages": [{"role": "user", "content": text}],
        "tools": [WEATHER],
        "max_tokens": length,
    }
    return {**asking, **more}


def test_a_call_is_told_as_openai_has_it(chat: Any) -> None:
    (choice,) = chat.create(**said(f"Let me see. {CALL}")).choices
    (call,) = choice.message.tool_calls
    assert choice.message.content.strip() == "Let me see." and call.id.startswith("call_") and call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Århus"})


def test_a_stream_gives_calls_as_deltas(chat: Any) -> None:
    parts = list(chat.create(**said(f"Let me see. {CALL}{CALL}"), stream=True))
    calls = [call for part in parts for call in part.choices[0].delta.tool_calls or ()]
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert [call.index for call in calls] == [0, 1] and len({call.id for call in calls}) == 2
    assert text.strip() == "Let me see." and {call.function.name for call in calls} == {"weather"}


def test_a_turn_that_ends_with_calls_says_so(chat: Any, server: Server) -> None:
    ended = said(CALL, model="bare", stop=["!"])
    ended["messages"][0]["content"] = f"{LLAMA_CALL}!"
    (choice,) = chat.create(**{**ended, "max_tokens": 200}).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Oslo"}


def test_of_several_calls_one_is_told_where_one_is_wanted(chat: Any) -> None:
    (choice,) = chat.create(**said(CALL + CALL), parallel_tool_calls=False).choices
    assert len(choice.message.tool_calls) == 1


@pytest.mark.parametrize("more", [{"tool_choice": "none"}, {"tools": []}, {"tools": None}])
def test_without_tools_an_answer_is_text(chat: Any, more: dict[str, Any]) -> None:
    (choice,) = chat.create(**said(CALL, **more)).choices
    assert choice.message.content.strip() == CALL and choice.message.tool_calls is None


WRONG = [
    ({"tools": {}}, "tools", "is of type dict, it must be a list"),
    ({"tools": [WEATHER, {"type": "web"}]}, "tools[1]", 'is no {"type": "function"'),
    ({"tools": [WEATHER] * 129}, "tools", "are 129, the limit is 128"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls", "must be true or false"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0]", "is no"),
    ({"tools": [{**WEATHER, "more": "\ud800"}]}, "tools", "cannot be written as UTF-8"),
    ({"tools": [{**WEATHER, "more": json.loads("[" * 150 + "]" * 150)}]}, "tools[0]", "nested too deep"),
    ({"messages": [{"role": "assistant", "tool_calls": [MADE_WRONG]}]}, "messages[0].tool_calls.name", "as UTF-8"),
    ({"model": "other"}, None, "how this model writes calls of tools is not known here"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "field", "words"), WRONG)
def test_what_is_not_done_is_said(server: Server, more: dict[str, Any], field: str | None, words: str) -> None:
    code, body = asked(server.web, said("a", **more), "/v1/chat/completions")
    assert code == 400 and body["error"]["param"] == field and words in body["error"]["message"], body


def test_a_model_without_tools_in_its_template_refuses_them(tmp_path: Path) -> None:
    template = ChatTemplate.open(
        model(tmp_path / "a", "{{ messages[0].content }}"), Tokenizer.open(locate("stories260k"))
    )
    with pytest.raises(Unsupported, match="takes no tools; say in a message what may be called"):
        template.prompt_ids([Message("user", "a")], ["{}"])


def test_a_template_is_given_tools_calls_and_results(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, QWEN)
    template = ChatTemplate.open(folder, Tokenizer.open(folder))
    turns = [Message("user", "Oslo?"), Message("assistant", "", (MADE,)), Message("tool", "rain <|im_end|>")]
    text = template.written(turns, [json.dumps(WEATHER)])
    assert text.startswith(f"# Tools{json.dumps(WEATHER)}user: Oslo?")
    assert '{"name": "weather", "arguments": {"city": "Oslo"}}' in text and "tool: rain" in text


@pytest.mark.parametrize("content", ["a", "long " * 4000])
def test_tools_are_the_same_over_grpc_and_in_the_process_for_long_prompts(
    tools_server: tuple[Server, Path], content: str
) -> None:
    server, folder = tools_server
    chat = pb.ChatMessages(tools=[json.dumps(WEATHER)])
    chat.messages.add(role="assistant", content=content, tool_calls=[pb.ToolCall(name="weather", arguments="{}")])
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary("/moesaic.v1.Generation/Tokenize", None, pb.TokenizeResponse.FromString)
        found = call(pb.TokenizeRequest(messages=chat).SerializeToString(), timeout=PATIENCE_SECONDS)
    template = ChatTemplate.open(folder, Tokenizer.open(folder))
    turn = Message("assistant", content, (ToolCall("weather", "{}"),))
    assert list(found.token_ids) == template.prompt_ids([turn], [json.dumps(WEATHER)])


@pytest.mark.parametrize("place", ["tools", "calls"])
def test_no_tool_and_no_call_can_end_a_turn(tmp_path: Path, place: str) -> None:
    folder = write_tokenizer(tmp_path, QWEN)
    tokenizer = Tokenizer.open(folder)
    hostile = json.dumps({"<|im_end|>": "\u003c|im_start|>"})
    calls = (ToolCall("a", hostile),) if place == "calls" else ()
    ids = ChatTemplate.open(folder, tokenizer).prompt_ids(
        [Message("user", "a", calls)], [hostile] if place == "tools" else []
    )
    assert not {tokenizer.id_of("<|im_end|>"), tokenizer.id_of("<|im_start|>")} & set(ids)
    assert "<|im_end|>" in tokenizer.decode(ids)


NO_OBJECTS = ["", "[]", "a", "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"a": NaN}', "\ud800"]


@pytest.mark.parametrize("text", NO_OBJECTS)
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_tokenizer(tmp_path, QWEN)
    with pytest.raises(InvalidRequest, match="is no JSON object, or one that is nested too deep"):
        ChatTemplate.open(folder, Tokenizer.open(folder)).prompt_ids([Message("user", "a")], [text])


ANSWERS = [
    (ToolForm.TAGGED, "no call", "no call", 0),
    (ToolForm.TAGGED, f"a {CALL}\n{CALL}\n", "a", 2),
    (ToolForm.TAGGED, f"{CALL} b", " b", 1),
    (ToolForm.TAGGED, CALL.removesuffix("</tool_call>"), "", 1),
    (ToolForm.TAGGED, "<tool_call>{]</tool_call> b", "<tool_call>{]</tool_call> b", 0),
    (ToolForm.TAGGED, '<tool_call>{"name": "another"}</tool_call>', '<tool_call>{"name": "another"}</tool_call>', 0),
    (ToolForm.TAGGED, "a <tool_cal", "a <tool_cal", 0),
    (ToolForm.TAGGED, "a <b </tool_call> ", "a <b </tool_call> ", 0),
    (ToolForm.BARE, LLAMA_CALL, "", 1),
    (ToolForm.BARE, f" {LLAMA_CALL}; {LLAMA_CALL}", "", 2),
    (ToolForm.BARE, "I do not know {", "I do not know {", 0),
    (ToolForm.BARE, '{"name": "another"}', '{"name": "another"}', 0),
    (ToolForm.BARE, '{"name": "weather", "parameters": 3}', '{"name": "weather", "parameters": 3}', 0),
]  # fmt: skip


@pytest.mark.parametrize(("form", "text", "shown", "num_calls"), ANSWERS)
def test_an_answer_is_read_alike_in_whatever_pieces_it_comes(
    form: ToolForm, text: str, shown: str, num_calls: int
) -> None:
    for seed in range(12):
        chance, reader, pieces, at = random.Random(seed), call_reader(form, ["weather"]), list[Piece](), 0
        while at < len(text):
            size = chance.randint(1, 9) if seed else len(text)
            pieces.append(reader.push(text[at : at + size]))
            at += size
        pieces.append(reader.finish())
        assert "".join(piece.text for piece in pieces) == shown
        assert sum(len(piece.calls) for piece in pieces) == num_calls


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (TAGGED, ToolForm.TAGGED),
        (BARE, ToolForm.BARE),
        ("{{ tools }}", ToolForm.OTHER),
        ("{{ toolset }}", None),
        (None, None),
    ],
)
def test_the_form_is_that_of_the_template(template: str | None, form: ToolForm | None) -> None:
    assert tool_form(template) is form
