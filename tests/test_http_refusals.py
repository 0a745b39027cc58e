"""What the HTTP door refuses: with which code, which field, and what is said about the way out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from echo_engine import CRASH, FAIL, HOLD, SECRET
from http_caller import HttpCaller, asked
from server_harness import LISTENS, Server

from moesaic.models.errors import InvalidRequest
from moesaic.server.client_request import MAX_REQUEST_BYTES
from moesaic.server.http.body import MOST_VALUES, is_small, parsed
from moesaic.server.http.requests import asking_of
from moesaic.server.status import MAX_VIOLATIONS

TALK = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(http=True, log_requests=True) as server:
        yield server


def prompt(**fields: Any) -> dict[str, Any]:
    return {"prompt": [7], **fields}


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (prompt(temprature=1), "temprature", "did you mean 'temperature'?"),
        (prompt(temperature=7), "temperature", "is 7.0, it must be from 0 (greedy) to 2"),
        (prompt(temperature="hot"), "temperature", "it must be a number"),
        (prompt(max_tokens=0), "max_tokens", "is 0, it must be at least 1"),
        (prompt(min_tokens=50, max_tokens=5), "min_tokens", "it must be at most max_tokens, 5"),
        (prompt(n=0), "n", "is 0, it must be from 1 to 128"),
        (prompt(seed=-1), "seed", "is -1, it must be from 0"),
        (prompt(stop=[1]), "stop", "it must be a string or a list of strings"),
        (prompt(stop={"a": 1}), "stop", "it must be a string or a list of strings"),
        (prompt(stop=["a"] * 17), "stop", "has 17 entries, the limit is 16"),
        (prompt(logit_bias={"x": 1}), "logit_bias", "a mapping of token ids to numbers"),
        (prompt(logit_bias={"7": 1000}), "logit_bias", "it must be from -100 to 100"),
        (prompt(logit_bias={"9" * 19: 1}), "logit_bias", "its field cannot hold"),
        (prompt(logprobs=21), "logprobs", "it must be from 0 to 20"),
        (prompt(stream="yes"), "stream", "must be true or false"),
        (prompt(stream_options={"include_usage": True}), "stream_options", "ask for stream: true"),
        (prompt(stream=True, stream_options={"usage": True}), "stream_options.usage", "there is no such field"),
        (prompt(echo=True), "echo", "put the prompt in front of the answer yourself"),
        (prompt(best_of=2), "best_of", "ask for n answers"),
        (prompt(suffix="end"), "suffix", "leave it out"),
        (prompt(tools=[{}]), "tools", "ask at /v1/chat/completions"),
        (prompt(moesaic=[]), "moesaic", "must be an object"),
        (prompt(moesaic={"teir": "low"}), "moesaic.teir", "did you mean 'tier'?"),
        (prompt(moesaic={"share": 0}), "moesaic.share", "is 0"),
        (prompt(moesaic={"tier": 5}), "moesaic.tier", "the name of a tier"),
        (prompt(moesaic={"first_token_seconds": -1}), "moesaic.first_token_seconds", "is -1"),
        (prompt(moesaic={"choices": []}), "moesaic.choices", "has 0 entries"),
        (prompt(moesaic={"tier": "full"}, service_tier="full"), "service_tier", "comes with moesaic.tier"),
        (prompt(moesaic={"priority": "low"}, service_tier="flex"), "service_tier", "comes with moesaic.priority"),
        (prompt(service_tier=["full"]), "service_tier", "must be the name of a tier"),
        (prompt(response_format={"type": "xml"}), "response_format", "is of another form"),
        (prompt(response_format={"type": "json_schema", "json_schema": {}}), "response_format", "is of another form"),
        (prompt(model=5), "model", "must be the name of a model"),
        (prompt(model={}), "model", "must be the name of a model"),
        (prompt(**{"\ud800": 1}), "\\ud800", "there is no such field"),
        (prompt(moesaic={"\ud800": 1}), "moesaic.\\ud800", "there is no such field"),
        ({}, "prompt", "must be a text or a list of token ids"),
        ({"prompt": ["a", "b"]}, "prompt", "holds 2 prompts; send a request for each"),
        ({"prompt": [7, "b"]}, "prompt", "must be a text or a list of token ids"),
        ({"prompt": [True]}, "prompt", "must be a text or a list of token ids"),
        ({"prompt": [-1]}, "prompt", "its field cannot hold"),
        ({"prompt": [512]}, "prompt", "is outside the 512 ids"),
        ({"prompt": "\ud800"}, "prompt", "UTF-8"),
        ({"prompt": [7] * 600, "max_tokens": 5}, "prompt", "the context holds 512; shorten the prompt"),
        (prompt(messages=TALK), "messages", "there is no such field"),
    ],
)
def test_a_wrong_field_is_named_as_it_was_written(server: Server, body: Any, field: str, words: str) -> None:
    code, told = asked(server.web, body)
    assert code == 400 and told["error"]["type"] == "invalid_request_error"
    assert told["error"]["param"] == field and words in told["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"messages": "Hello"}, "messages", "is of type str, it must be a list"),
        ({"messages": []}, "messages", "has 0 entries"),
        ({"messages": [5]}, "messages[0]", "is of type int"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "no other"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "messages[0]", "role and content and nothing"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "must be text"),
        ({"messages": TALK, "top_logprobs": 3}, "top_logprobs", "ask for logprobs: true"),
        ({"messages": TALK, "logprobs": 3}, "logprobs", "must be true or false"),
        ({"messages": TALK, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
        ({"messages": TALK, "max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "give one of them"),
        ({"messages": TALK, "prompt": "a"}, "prompt", "there is no such field"),
        ({"messages": TALK, "tool_choice": "required"}, "tool_choice", "tools names nothing that can be called"),
        ({"messages": TALK, "reasoning_effort": "low"}, "reasoning_effort", "service_tier or moesaic.share"),
    ],
)
def test_a_wrong_field_of_a_chat_is_named_as_it_was_written(server: Server, body: Any, field: str, words: str) -> None:
    code, told = asked(server.web, body, "/v1/chat/completions")
    assert code == 400 and told["error"]["param"] == field and words in told["error"]["message"]


def test_all_that_is_wrong_is_said_at_once(server: Server) -> None:
    _, told = asked(server.web, prompt(temprature=1, stop=[1], moesaic={"teir": "x"}, stream="yes"))
    assert {each["param"] for each in told["error"]["violations"]} == {"temprature", "stop", "moesaic.teir", "stream"}


def test_what_clients_send_by_habit_changes_nothing(server: Server) -> None:
    habits = {
        "user": "me", "metadata": {"a": "b"}, "store": False, "tools": [], "tool_choice": "auto", "best_of": 1,
        "echo": False, "suffix": None, "parallel_tool_calls": True, "modalities": ["text"], "temperature": None,
    }  # fmt: skip
    code, told = asked(server.web, prompt(max_tokens=2, **habits))
    assert (code, told["usage"]["completion_tokens"]) == (200, 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b" ", "is no JSON"), (b"{", "is no JSON"),
        (b"\xff\xfe{}", "is not UTF-8 at byte 0"), (b"[]", "another kind"),
        (b"5", "another kind"), (b'{"prompt": NaN}', "NaN is no number"),
        (b'{"n": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"[" * 10_000, "is nested too deep"), (b'{"a":' * 5_000, "is nested too deep"), (b'"' * 9, "is no JSON"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_request(server: Server, body: bytes, words: str) -> None:
    code, told = asked(server.web, body)
    assert (code, told["error"]["param"]) == (400, "body") and words in told["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 1_000_000, b'{"prompt": [' + b"1," * 1_500_000 + b"1]}", b'{"a":' * 600_000,
     b" " * (MAX_REQUEST_BYTES + 1), b'{"prompt": "' + b"a" * MAX_REQUEST_BYTES + b'"}'],
    ids=["arrays", "numbers", "objects", "blanks", "text"],
)  # fmt: skip
def test_bodies_of_too_much_are_refused_before_they_are_parsed(server: Server, body: bytes) -> None:
    code, told = asked(server.web, body)
    assert (code, told["error"]["code"]) == (413, "request_too_large")


def test_a_body_whose_end_nobody_knows_is_counted_too(server: Server) -> None:
    with HttpCaller(server.web) as caller:
        caller.send(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(5):
            caller.send(b"100000\r\n" + b"a" * (1 << 20) + b"\r\n")
        caller.send(b"0\r\n\r\n")
        assert caller.answer()[0] == 413


def test_marks_within_texts_are_not_counted() -> None:
    assert is_small(json.dumps({"prompt": ',:[{\\"' * MOST_VALUES}).encode())
    assert not is_small(b'{"a":"' + b"\\\\" * MOST_VALUES + b'","b":[1' + b",1" * (MOST_VALUES + 1) + b"]}")


@pytest.mark.parametrize(
    ("body", "chat"),
    [
        ({f"temperatur{i}": 1 for i in range(16_000)}, False),
        (prompt(moesaic={f"tie{i}": 1 for i in range(16_000)}), False),
        ({"messages": [5] * 100_000}, True),
        ({"messages": [{"role": "user", "content": [5] * 100_000}]}, True),
        (prompt(temperature=["a" * 30] * 100_000), False),
    ],
    ids=["names", "names inside", "messages", "parts", "a value"],
)
def test_of_very_many_mistakes_the_first_are_told(body: Any, chat: bool) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asking_of(parsed(json.dumps(body).encode()), chat, "a")
    assert len(caught.value.violations) <= 2 * MAX_VIOLATIONS and len(str(caught.value)) < 10_000


@pytest.mark.parametrize("depth", [900, 1000, 5000])
def test_a_schema_that_is_nested_deep_is_a_mistake_of_its_caller(server: Server, depth: int) -> None:
    form = b'{"type": "json_schema", "json_schema": {"schema": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}}"
    code, told = asked(server.web, b'{"prompt": [7], "response_format": ' + form + b"}")
    assert code == 400 and told["error"]["type"] == "invalid_request_error"


def test_a_text_of_many_commas_is_no_list_of_many_values(server: Server) -> None:
    _, told = asked(server.web, {"prompt": "1,2\n" * (1 << 17)})
    assert told["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "code", "reason"),
    [("/v2/models", 404, "unknown_path"), ("/v1/models/ech", 404, "model_not_found"), ("/v1/models/", 400, None),
     ("/v1/completions", 405, "method_not_allowed"), ("/v1/models/%F0%9F/..", 404, "model_not_found")],
)  # fmt: skip
def test_a_path_that_leads_nowhere(server: Server, path: str, code: int, reason: str | None) -> None:
    with HttpCaller(server.web) as caller:
        caller.head(path)
        found, told = caller.answer()
    if reason is not None:
        assert (found, told["error"]["code"]) == (code, reason)


def test_models_that_are_not_served_and_what_no_model_does(server: Server) -> None:
    assert asked(server.web, prompt(model="gpt-4"))[0] == 404
    assert asked(server.web, {"messages": TALK}, "/v1/chat/completions")[1]["error"]["code"] == "unsupported_by_model"
    code, told = asked(server.web, {"input": "a"}, "/v1/embeddings")
    assert code == 400 and "makes no embeddings" in told["error"]["message"]


def test_a_request_id_that_is_none_is_named_by_its_header(server: Server) -> None:
    assert asked(server.web, prompt(), x_request_id="a b")[1]["error"]["param"] == "x-request-id"


@pytest.mark.parametrize(
    ("headers", "code", "reason"),
    [({"host": "evil.example"}, 421, "foreign_host"), ({"host": "[::2"}, 421, "foreign_host"),
     ({"origin": "https://evil.example"}, 403, "foreign_origin"), ({"origin": "null"}, 403, "foreign_origin")],
)  # fmt: skip
def test_pages_of_other_sites_and_foreign_names_are_kept_out(
    server: Server, headers: dict[str, str], code: int, reason: str
) -> None:
    found, told = asked(server.web, prompt(max_tokens=2), **headers)
    assert (found, told["error"]["code"]) == (code, reason)


def test_a_page_of_this_server_is_let_in(server: Server) -> None:
    own = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    assert asked(server.web, prompt(max_tokens=2), **own)[0] == 200


def test_a_full_model_says_when_to_come_again() -> None:
    with Server(http=True, max_requests=1) as server, server.held(), HttpCaller(server.web) as caller:
        caller.post({"prompt": [HOLD], "stream": True})
        caller.receive(b"data:")
        with HttpCaller(server.web) as other:
            other.post(prompt())
            head = other.receive(b"\r\n\r\n").decode()
    assert head.startswith("HTTP/1.1 429") and "retry-after: 1\r\n" in head and "retry-after-ms: " in head


def test_a_failure_of_the_engine_tells_an_incident_and_no_more(server: Server) -> None:
    code, told = asked(server.web, {"prompt": [FAIL]})
    assert code == 500 and "incident" in told["error"]["message"] and SECRET not in json.dumps(told)


def test_an_engine_that_ends_is_told_in_the_stream_that_has_begun() -> None:
    with Server(http=True) as server, HttpCaller(server.web) as caller:
        caller.post({"prompt": [CRASH], "stream": True})
        caller.receive(b"\r\n\r\n")
        said = caller.receive(b"}}\n\n").decode()
        assert json.loads(said.rpartition("data: ")[2] + "}}")["error"]["code"] == "engine_restarting"


def test_what_loads_is_told_when_to_come_again() -> None:
    with Server(http=True, said=LISTENS) as loading, loading.held():
        loading.wait_for("HTTP at")
        code, told = asked(loading.web, prompt())
        assert (code, told["error"]["code"]) == (503, "loading")
        with HttpCaller(loading.web) as caller:
            caller.head("/readyz")
            assert caller.answer() == (503, {"ready": False, "models": {"echo": "LOADING"}})
