"""The HTTP door on a real port, asked by the client that OpenAI publishes."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from builders import llama
from chat_forms import CHATML, CONTROL, write_tokenizer
from echo_engine import HOLD
from openai.types.chat import ChatCompletionMessageParam
from patience import eventually
from server_harness import Server, all_free, free_port

from moesaic.bench.local_server import local_server
from moesaic.server.client import Client

PROMPT = "Once upon a time"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of bytes and control tokens that chats."""
    made = tmp_path_factory.mktemp("http") / "model"
    llama(made, vocab_size=260 + len(CONTROL), max_position_embeddings=256)
    written: Path = write_tokenizer(made, CHATML)
    return written


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(http=True) as server:
        yield server


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.web}/v1", api_key="none", max_retries=0) as stranger:
        yield stranger


@pytest.fixture(scope="module")
def chatting(folder: Path) -> Iterator[openai.OpenAI]:
    """A client of a server whose engine echoes what a chat template makes of messages."""
    with (
        Server(http=True, path=folder) as server,
        openai.OpenAI(base_url=f"{server.web}/v1", api_key="none", max_retries=0) as stranger,
    ):
        yield stranger


def test_a_completion_is_what_grpc_answers(stranger: openai.OpenAI, client: Client) -> None:
    found = stranger.completions.create(model="echo", prompt=PROMPT, max_tokens=50)
    known = client.generate(PROMPT, max_new_tokens=50)
    assert found.choices[0].text == known.text and found.choices[0].finish_reason == "length"
    assert found.usage is not None and found.usage.completion_tokens == known.usage.completion_tokens == 50
    assert (found.object, found.model) == ("text_completion", "echo")


def test_a_stream_says_what_the_whole_answer_says(stranger: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "echo", "prompt": PROMPT, "max_tokens": 50, "stop": ["upon a"]}
    whole = stranger.completions.create(**asked)
    parts = list(stranger.completions.create(**asked, stream=True))
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert [part.choices[0].finish_reason for part in parts][-1] == whole.choices[0].finish_reason == "stop"
    assert len({part.id for part in parts}) == 1 and all(part.usage is None for part in parts)


def test_a_stream_ends_with_its_usage_where_it_was_asked_for(stranger: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    *parts, last = stranger.completions.create(
        model="echo", prompt=PROMPT, max_tokens=7, stream=True, stream_options=options
    )
    assert not last.choices and last.usage is not None and last.usage.completion_tokens == 7
    assert all(part.usage is None for part in parts)


def test_each_part_tells_the_usage_so_far_where_it_was_asked_for(stranger: openai.OpenAI) -> None:
    options: Any = {"continuous_usage_stats": True}
    parts = stranger.completions.create(model="echo", prompt=[7, 8], max_tokens=9, stream=True, stream_options=options)
    counts = [part.usage.completion_tokens for part in parts if part.usage is not None]
    assert counts == sorted(counts) and counts[-1] == 9


def test_n_answers_are_n_choices(stranger: openai.OpenAI) -> None:
    found = stranger.completions.create(model="echo", prompt=[40, 50, 60], max_tokens=4, n=3)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert len({choice.text for choice in found.choices}) == 3
    assert found.usage is not None and found.usage.completion_tokens == 12


def test_log_probabilities_of_a_completion_name_tokens(stranger: openai.OpenAI) -> None:
    (choice,) = stranger.completions.create(model="echo", prompt=PROMPT, max_tokens=5, logprobs=2).choices
    told = choice.logprobs
    assert told is not None and told.tokens == ["", "Once", " upon", " a", " time"] and told.top_logprobs
    assert told.token_logprobs == [-0.5] * 5 and told.text_offset == [0, 0, 4, 9, 11]
    assert all(len(top) <= 2 for top in told.top_logprobs)


def test_a_chat_is_written_by_the_template_of_the_model(chatting: openai.OpenAI) -> None:
    found = chatting.chat.completions.create(model="echo", messages=HELLO, max_completion_tokens=40)
    (choice,) = found.choices
    assert choice.message.role == "assistant" and choice.message.content is not None
    assert "Hello" in choice.message.content and found.object == "chat.completion"


def test_a_chat_stream_begins_with_its_role(chatting: openai.OpenAI) -> None:
    first, *parts = chatting.chat.completions.create(model="echo", messages=HELLO, max_tokens=40, stream=True)
    whole = chatting.chat.completions.create(model="echo", messages=HELLO, max_tokens=40)
    text = "".join(part.choices[0].delta.content or "" for part in [first, *parts])
    assert first.choices[0].delta.role == "assistant" and first.object == "chat.completion.chunk"
    assert text == whole.choices[0].message.content and parts[-1].choices[0].finish_reason == "length"


def test_log_probabilities_of_a_chat_name_tokens_and_bytes(chatting: openai.OpenAI) -> None:
    (choice,) = chatting.chat.completions.create(
        model="echo", messages=HELLO, max_tokens=20, logprobs=True, top_logprobs=1
    ).choices
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 20 and all(len(each.top_logprobs) == 1 for each in choice.logprobs.content)
    assert "Hello" in b"".join(bytes(each.bytes or []) for each in choice.logprobs.content).decode()


def test_an_answer_can_be_sent_back_as_it_came(chatting: openai.OpenAI) -> None:
    found = chatting.chat.completions.create(model="echo", messages=HELLO, max_tokens=5)
    talk: list[Any] = [*HELLO, found.choices[0].message, {"role": "user", "content": [{"type": "text", "text": "A"}]}]
    assert chatting.chat.completions.create(model="echo", messages=talk, max_tokens=5).choices


def test_the_receipt_stands_under_a_key_of_ours(stranger: openai.OpenAI) -> None:
    found = stranger.completions.create(model="echo", prompt=[7], max_tokens=2, extra_body={"moesaic": {"share": 1.0}})
    assert found.usage is not None
    receipt = found.usage.model_dump()["moesaic"]
    assert (receipt["tier_asked"], receipt["tier_used"], receipt["cached_prompt_tokens"]) == ("full", "full", 0)
    assert found.model_dump()["service_tier"] == "full"


@pytest.mark.parametrize("name", ["auto", "default", "flex", "priority", "full"])
def test_a_service_tier_is_a_tier_or_a_priority(stranger: openai.OpenAI, name: str) -> None:
    assert stranger.completions.create(
        model="echo", prompt=[7], max_tokens=2, extra_body={"service_tier": name}
    ).choices


def test_models_are_listed_with_what_is_known_of_them(stranger: openai.OpenAI) -> None:
    (listed,) = stranger.models.list().data
    assert listed == stranger.models.retrieve("echo") and (listed.id, listed.owned_by) == ("echo", "moesaic")
    ours = listed.model_dump()["moesaic"]
    assert (ours["state"], ours["tiers"]) == ("SERVING", [{"name": "full", "bytes_share": 1.0}])


def test_a_request_id_comes_back(stranger: openai.OpenAI) -> None:
    found = stranger.completions.create(
        model="echo", prompt=[7], max_tokens=2, extra_headers={"x-request-id": "mine-1"}
    )
    assert found.id == "cmpl-mine-1" and found._request_id == "mine-1"


def test_twenty_four_at_once_are_twenty_four_right_answers(stranger: openai.OpenAI) -> None:
    def ask(token: int) -> int:
        found = stranger.completions.create(model="echo", prompt=[token], max_tokens=20, logprobs=0)
        return len(set(found.choices[0].logprobs.tokens or [])) if found.choices[0].logprobs else 0

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(ask, range(40, 64))) == [1] * 24


def test_a_stream_that_is_closed_frees_its_slot(server: Server, stranger: openai.OpenAI, client: Client) -> None:
    with server.held():
        with stranger.completions.create(model="echo", prompt=[HOLD], stream=True) as stream:
            next(iter(stream))
            eventually(lambda: not all_free(client))
        eventually(lambda: all_free(client))


def test_a_client_of_asyncio_is_served_too(server: Server) -> None:
    import asyncio

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.web}/v1", api_key="none", max_retries=0) as stranger:
            stream = await stranger.completions.create(model="echo", prompt=PROMPT, max_tokens=5, stream=True)
            return "".join([part.choices[0].text async for part in stream])

    assert asyncio.run(ask()) == " Once upon a time"


def test_a_real_model_answers_in_the_form_that_was_asked_for(folder: Path) -> None:
    pytest.importorskip("llguidance")
    port, schema = free_port(), {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "one", "schema": schema | {"additionalProperties": False}},
    }
    with local_server({"chat": folder}, "--http-port", str(port)):
        stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        with stranger:
            asked: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 60, "seed": 7}
            found = stranger.chat.completions.create(**asked, response_format=form)
            free = [stranger.chat.completions.create(**asked, logit_bias={"70": 100}) for _ in range(2)]
    assert json.loads(found.choices[0].message.content or "") == {"a": "x"}
    assert free[0].choices[0].message.content == free[1].choices[0].message.content


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_as_people_type_it_is_answered(server: Server) -> None:
    def curl(path: str, *more: str) -> str:
        return subprocess.run(["curl", "-sN", f"{server.web}{path}", *more], capture_output=True, text=True).stdout

    asked = '{"prompt": "Once upon a time", "max_tokens": 5, "stream": true}'
    assert curl("/v1/completions", "-d", asked).endswith("data: [DONE]\n\n")
    large = curl("/v1/completions", "-d", "x" * 100_000, "-H", "Expect: 100-continue")
    assert json.loads(large)["error"]["param"] == "body" and curl("/livez") == "ok\n"
    assert curl("/readyz", "-I").startswith("HTTP/1.1 200 OK")
