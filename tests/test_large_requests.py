"""Requests that are large, or say that they hold millions of things, and everybody else beside them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from echo_engine import HOLD
from google.rpc import error_details_pb2 as rpc
from google.rpc.status_pb2 import Status
from http_caller import asked as asked_over_http
from server_harness import Server

from moesaic.models.errors import InvalidRequest, Overloaded, Unavailable
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer
from moesaic.proto import engine_pb2
from moesaic.proto import generation_pb2 as pb
from moesaic.server import long_prompts
from moesaic.server.byte_budget import ByteBudget
from moesaic.server.client import Client
from moesaic.server.long_prompts import LongPrompts
from moesaic.server.wire_limits import MOST_FIELDS, bounded

GENERATE = "/moesaic.v1.Generation/Generate"
LONG = "Once upon a time " * 2000
WINDOW = 512


def many(field: str, entry: bytes, count: int) -> bytes:
    """A GenerateRequest with so many times the same entry in a message of this field."""
    number = pb.GenerateRequest.DESCRIPTOR.fields_by_name[field].number
    head = pb.GenerateRequest(text="a").SerializeToString()
    return head + bytes([number << 3 | 2]) + varint(count * len(entry)) + entry * count


def varint(value: int) -> bytes:
    more = value >> 7
    return bytes([value & 127 | 128]) + varint(more) if more else bytes([value])


def packed(field: str, inner: int, count: int) -> bytes:
    """One with a list of so many ids."""
    return many(field, bytes([inner << 3 | 2]) + varint(count) + b"\x05" * count, 1)


LARGE = {
    "messages": many("messages", b"\x0a\x00", 2_000_000),
    "stop strings": many("stopping", b"\x12\x00", 2_000_000),
    "stop ids": packed("stopping", 3, 4_000_000),
    "biases": many("token_rules", b"\x0a\x00", 2_000_000),
    "banned ids": packed("token_rules", 3, 4_000_000),
    "prompt ids": packed("token_ids", 1, 4_000_000),
    "prompt ids one by one": many("token_ids", b"\x08\x05", 2_000_000),
    "unknown fields": b"\xf8\x3f\x01" * 1_300_000,
    "the same message again and again": many("stopping", b"", 1) * 800_000,
}


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE.keys())
def test_millions_of_things_are_refused_before_they_are_built(server: Server, data: bytes) -> None:
    before = peak_megabytes(server)
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(GENERATE)(data)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = rpc.ErrorInfo()
    Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details[0].Unpack(info)
    assert info.reason == "REQUEST_TOO_LARGE" and "limit" in error.details() or "more than" in error.details()
    assert peak_megabytes(server) < max(before, 60) + 60


def peak_megabytes(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_what_may_be_asked_passes_the_count() -> None:
    request = pb.GenerateRequest(text="a", stopping=pb.Stopping(stop_strings=["x"] * 16))
    request.token_rules.logit_bias.update(dict.fromkeys(range(300), 1.0))
    request.token_rules.banned_token_ids.extend(range(1 << 16))
    request.messages.messages.extend([pb.ChatMessage(role="user", content="x" * 900)] * 1024)
    assert bounded(pb.GenerateRequest)(request.SerializeToString()) == request


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_large_message_that_is_cut_anywhere_is_left_to_the_parser(cut: int) -> None:
    data = pb.GenerateRequest(request_id="x" * 20, text="y" * 3 * MOST_FIELDS).SerializeToString()
    try:
        expected = pb.GenerateRequest.FromString(data[:-cut])
    except Exception as error:
        with pytest.raises(type(error)):
            bounded(pb.GenerateRequest)(data[:-cut])
    else:
        assert bounded(pb.GenerateRequest)(data[:-cut]) == expected


def test_more_ids_than_the_window_are_refused_by_their_number(client: Client) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate([5] * 1_000_000)
    (violation,) = caught.value.violations
    assert violation.reason == "CONTEXT_LENGTH_EXCEEDED" and violation.metadata["prompt_tokens"] == "1000000"


def test_a_text_that_no_window_holds_is_refused_by_its_bytes(client: Client) -> None:
    with pytest.raises(InvalidRequest, match=r"has 5000 bytes, the 512 tokens of the context hold \d+ at most"):
        client.generate("a" * 5000)


def test_requests_together_hold_a_budget_of_bytes() -> None:
    with Server(max_request_bytes=3000) as server, server.client() as client, server.held():
        with client.stream([HOLD], max_new_tokens=10, banned_token_ids=[200] * 1400) as stream:
            next(stream)
            with pytest.raises(Overloaded, match="more would pass the limit of 3000") as caught:
                client.generate("a" * 1000)
            assert caught.value.reason == "TOO_MANY_BYTES"
            assert client.generate([5], max_new_tokens=1).token_ids == (5,)


def test_another_caller_has_a_share_of_a_full_budget_of_bytes() -> None:
    with Server(max_request_bytes=3000, http=True) as server, server.client() as client, server.held():
        with client.stream([HOLD], max_new_tokens=10, banned_token_ids=[200] * 1400) as stream:
            next(stream)
            with pytest.raises(Overloaded):
                client.generate([5] * 400, max_new_tokens=1)
            assert asked_over_http(server.web, {"prompt": [5] * 400, "max_tokens": 1})[0] == 200


def test_one_request_that_is_alone_always_has_room() -> None:
    budget = ByteBudget(10)
    with budget.request("a", 1000), pytest.raises(Overloaded), budget.request("a", 1):
        pass
    assert budget.held == 0


def test_a_caller_who_fills_the_budget_of_bytes_leaves_others_their_share() -> None:
    budget = ByteBudget(100)
    with budget.request("large", 90), budget.request("other", 50):
        for caller in ("large", "other"):
            with pytest.raises(Overloaded), budget.request(caller, 1):
                pass
        with budget.request("third", 33):
            assert budget.held == 173


def test_shares_of_bytes_end_at_twice_the_budget() -> None:
    budget = ByteBudget(100)
    with ExitStack() as stack:
        for i in range(20):
            with suppress(Overloaded):
                stack.enter_context(budget.request(str(i), 100 // (i + 1)))
        assert 150 < budget.held <= 200
    assert budget.held == 0


def stories() -> Path:
    return locate("stories260k")


def asked(text: str = LONG, *, window: int = 1 << 20) -> Callable[[], engine_pb2.Tokenize]:
    return lambda: engine_pb2.Tokenize(text=text, window=window)


def test_long_prompts_become_the_ids_that_short_ones_would() -> None:
    async def scene() -> tuple[Any, Any]:
        prompts = LongPrompts(stories())
        found = await prompts.ids(asked()), await prompts.ids(asked(window=WINDOW))
        await prompts.end()
        return found

    ids, counted = asyncio.run(scene())
    expected = Tokenizer.open(stories()).encode(LONG)
    assert ids == tuple(expected) and counted == (0,) * len(expected)


def test_a_long_prompt_whose_process_ends_is_told_and_the_next_is_answered() -> None:
    async def scene() -> None:
        prompts = LongPrompts(stories())
        waiting = asyncio.create_task(prompts.ids(asked("a" * 1_000_000)))
        while prompts._process is None:
            await asyncio.sleep(0.001)
        prompts._process.kill()
        with pytest.raises(Unavailable, match="ended; try again"):
            await waiting
        assert await prompts.ids(asked())
        await prompts.end()

    asyncio.run(scene())


def test_a_long_prompt_has_its_time_and_one_that_nobody_waits_for_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        prompts = LongPrompts(stories())
        given_up = asyncio.create_task(prompts.ids(asked("a" * 1_000_000)))
        while prompts._process is None:
            await asyncio.sleep(0.001)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert prompts._process is None
        monkeypatch.setattr(long_prompts, "MOST_SECONDS", 0.01)
        with pytest.raises(InvalidRequest, match="takes more than 0.01 s"):
            await prompts.ids(asked("a" * 1_000_000))
        await prompts.end()

    asyncio.run(scene())


def test_health_is_answered_beside_the_largest_requests(server: Server, client: Client) -> None:
    with ThreadPoolExecutor(8) as pool, grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(GENERATE)
        sent: list[Future[Any]] = [pool.submit(call, data) for data in LARGE.values()]
        while not all(each.done() for each in sent):
            assert client.health() == "SERVING"
    assert peak_megabytes(server) < 200
