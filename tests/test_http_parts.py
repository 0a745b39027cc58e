"""Parts of the HTTP door by themselves: what is let go, where it listens, what it says where packages are missing."""

import asyncio
import gc
import socket
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from moesaic.models.errors import AddressError, InvalidRequest, SetupError, Violation
from moesaic.proto import generation_pb2 as pb
from moesaic.server import http_door
from moesaic.server.access import Access
from moesaic.server.exchange import TimeLimits
from moesaic.server.http.guard import Guard
from moesaic.server.http.logprobs import LEAST, TokenTexts
from moesaic.server.options import ServeOptions

OPTIONS = ServeOptions((("a", "stories260k"),))
SCOPE = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")], "query_string": b""}


class Held:
    """Something large."""


@pytest.fixture
def without_rings() -> Iterator[None]:
    """Nobody looks for rings of references meanwhile."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_rings")
def test_what_a_refused_request_held_is_let_go_at_once() -> None:
    held: list[weakref.ref[Held]] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        large = Held()
        held.append(weakref.ref(large))
        try:
            raise KeyError
        except KeyError:
            raise InvalidRequest([Violation("a", "is wrong")]) from None

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(app, TimeLimits(9, 9, 9), {}, lambda route, code: None, Access())
    asyncio.run(guard(dict(SCOPE), None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 400 and held[0]() is None


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_nobody_asked_for_is_given_up_for_a_free_one(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_door, "HTTP_PORT", taken)
    door = http_door.open_door(OPTIONS, "127.0.0.1", 9)
    assert door is not None and door.address.startswith("127.0.0.1:") and not door.address.endswith(f":{taken}")
    asyncio.run(door.stop(0))


def test_an_address_that_this_machine_does_not_have_is_refused() -> None:
    with pytest.raises(AddressError, match="cannot be listened on"):
        http_door.open_door(OPTIONS, "203.0.113.1", 9)


def test_a_server_on_ipv6_says_so() -> None:
    door = http_door.open_door(OPTIONS, "::1", 9)
    assert door is not None and door.address.startswith("[::1]:")
    asyncio.run(door.stop(0))


def test_without_its_packages_grpc_is_served_alone_and_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_door, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert http_door.missing() == "no HTTP: pip install uvicorn"
    assert http_door.open_door(OPTIONS, "127.0.0.1", 9) is None
    assert http_door.open_metrics(OPTIONS, None) is None  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="http_port is 80, and there is no HTTP: pip install uvicorn"):
        http_door.open_door(replace(OPTIONS, http_port=80), "127.0.0.1", 9)


class Pieces:
    """A tokenizer of bytes, which shows half of a letter as a sign."""

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode(errors="replace")


def test_tokens_that_are_half_a_letter_have_no_bytes() -> None:
    first, second = "é".encode()
    told = [pb.TokenLogprobs(token_id=each, logprob=float("-inf")) for each in (65, first, second)]
    content = TokenTexts(Pieces()).of_chat(told)  # type: ignore[arg-type]
    assert [each["bytes"] for each in content] == [[65], None, None]
    assert content[0] == {"token": "A", "logprob": LEAST, "bytes": [65], "top_logprobs": []}
