"""Thousands of mutated requests over HTTP: each is answered or refused, none is our fault, and the server goes on."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from http_caller import HttpCaller, asked
from server_harness import Server

from moesaic.models.errors import InvalidRequest
from moesaic.server.http.body import parsed
from moesaic.server.http.errors import response_of
from moesaic.server.http.fields import COMMON, LABELS, NOTHING, OF_DOORS, OURS
from moesaic.server.http.requests import asking_of

TURNS = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": [{"type": "text", "text": "é"}]}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
RESULTS = [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "a", "content": "rain"}]
SEEDS: list[dict[str, Any]] = [
    {"prompt": "Once upon a time", "max_tokens": 3, "stop": ["a", "b"], "logit_bias": {"7": 1.5}, "logprobs": 2},
    {"prompt": [7, 8, 9], "max_tokens": 2, "n": 2, "seed": 5, "moesaic": {"share": 1.0, "priority": "low"}},
    {"messages": TURNS, "max_tokens": 2, "logprobs": True, "top_logprobs": 1, "temperature": 0.5},
    {"prompt": "a", "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}, "service_tier": "full"},
    {
        "prompt": "a",
        "max_tokens": 2,
        "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [1]}}},
    },
    {"messages": [*TURNS, *RESULTS], "max_tokens": 2, "tools": [TOOL], "tool_choice": "auto", "stream": True},
    {"prompt": "a", "max_tokens": 2, "tools": [], "user": "me", "metadata": {"a": "b"}, "echo": False},
]
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**32, 2**64, -(2**63), 10**30, 0.5, 1e308, -0.0, 1e-320, "", "a", "full",
    "\x00", "\ud800", "🙂", "é" * 200, [], [[]], [1], [None], ["a"] * 20, [1.5], {}, {"a": 1}, {"type": "text"},
    {"7": 1}, {"-1": 1}, {"": {}}, [{"role": "user"}], "auto", "nan", "1e999",
]  # fmt: skip
NAMES = [
    *COMMON,
    *OURS,
    *LABELS,
    *NOTHING,
    *(name for names in OF_DOORS.values() for name in names),
    "x",
    "",
    "\ud800",
    "é",
    "Prompt",
]
ANSWERED = {200, 400, 404, 409, 413, 429}


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a body with a key in it."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def mutated(chance: random.Random) -> bytes:
    """A body that was right, changed in a few places, sometimes in its bytes."""
    body = json.loads(json.dumps(chance.choice(SEEDS)))
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice([*places(body)] or [(body, "prompt")])
        what = chance.randrange(4)
        if what == 0 and isinstance(holder, dict):
            holder[chance.choice(NAMES)] = deepcopy(chance.choice(VALUES))
        elif what == 1:
            holder.pop(key)
        else:
            holder[key] = deepcopy(chance.choice(VALUES))
    data = bytearray(json.dumps(body).encode())
    if chance.random() < 0.2:
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_body_says_it_is_a_request_or_a_mistake_of_its_caller(seed: int) -> None:
    chance = random.Random(seed)
    right = 0
    for _ in range(5_000):
        data = mutated(chance)
        try:
            asking_of(parsed(data), chance.random() < 0.3, "a")
            right += 1
        except InvalidRequest as error:
            assert error.violations and all(each.message for each in error.violations)
            assert response_of(error).status_code in ANSWERED, data
    assert 200 < right < 4_000


def test_a_server_answers_or_refuses_whatever_it_is_sent() -> None:
    chance = random.Random(9)
    with Server(http=True) as server:
        for _ in range(600):
            data, chat = mutated(chance), chance.random() < 0.3
            with HttpCaller(server.web) as caller:
                caller.post(data, "/v1/chat/completions" if chat else "/v1/completions", connection="close")
                code = int(caller.rest().split()[1])
            assert code in ANSWERED, data
        assert asked(server.web, {"prompt": [7], "max_tokens": 2})[0] == 200 and "incident" not in server.log


@pytest.mark.parametrize("seed", range(2))
def test_bytes_that_are_hardly_http_end_their_connection_alone(seed: int) -> None:
    chance = random.Random(seed)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 15\r\nexpect: 100-continue\r\n\r\n"
    with Server(http=True, receive_seconds=0.2) as server:
        for _ in range(60):
            data = bytearray(head + b'{"prompt": "a"}')
            for _ in range(chance.randint(1, 5)):
                data[chance.randrange(len(data))] = chance.choice((0, 9, 10, 13, 32, 58, 255, chance.randrange(256)))
            with HttpCaller(server.web) as caller:
                caller.send(bytes(data))
        with HttpCaller(server.web) as caller:
            caller.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            caller.rest()
        assert asked(server.web, {"prompt": [7], "max_tokens": 2})[0] == 200 and "Traceback" not in server.log
