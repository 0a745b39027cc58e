"""Callers who do not read, do not write, or take too long: what others see of it, and when they are let go."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from echo_engine import HOLD
from grpc_health.v1 import health_pb2
from patience import PATIENCE_SECONDS, eventually
from server_harness import Server, all_free

from moesaic.bench.server.http2_caller import Http2Caller
from moesaic.models.errors import Expired
from moesaic.proto import generation_pb2 as pb
from moesaic.server.client import Client
from moesaic.server.handlers import GENERATION, stub
from moesaic.server.status import error_of

GENERATE, STREAM = "/moesaic.v1.Generation/Generate", "/moesaic.v1.Generation/GenerateStream"
WATCH = "/grpc.health.v1.Health/Watch"
PROMPT = pb.GenerateRequest(text="Once upon a time").SerializeToString()
NAMED = pb.GenerateRequest(text="Once upon a time", request_id="unread").SerializeToString()
EVERYBODY = health_pb2.HealthCheckRequest().SerializeToString()
SHORT = {"write_seconds": 0.1, "receive_seconds": 0.1, "request_seconds": 60.0}
AT_ONCE = {"drain_seconds": 0.1, "last_words_seconds": 0.1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(max_requests=4, log_requests=True, **SHORT) as server:
        yield server


@pytest.fixture
def unread(server: Server) -> Iterator[Http2Caller]:
    """A caller that reads nothing until it grants a window."""
    with Http2Caller(server.address, window=0) as caller:
        yield caller


# --- who does not read ---------------------------------------------------------------------------------------------


def test_streams_that_nobody_reads_take_no_place_once_the_engine_is_done_with_them(
    client: Client, unread: Http2Caller
) -> None:
    for _ in range(4):
        unread.call(STREAM, PROMPT)
    unread.receive(b"x-request-id", times=4)
    eventually(lambda: all_free(client))
    assert client.generate([5], max_new_tokens=2).token_ids == (5, 5)


def test_answers_at_once_that_nobody_reads_take_none_either(client: Client, unread: Http2Caller) -> None:
    for _ in range(4):
        unread.call(GENERATE, PROMPT)
    unread.receive(b"x-request-id", times=4)
    assert client.generate([5], max_new_tokens=2).token_ids == (5, 5)


def test_a_stream_that_is_not_read_in_time_is_ended_and_its_caller_told_when_it_reads(
    server: Server, unread: Http2Caller
) -> None:
    stream = unread.call(STREAM, NAMED)
    before = server.log.count("unread")
    eventually(lambda: server.log.count("unread") > before)
    unread.grant(stream)
    unread.receive(b"nothing of the answer was read for 0.1 s (--write-seconds)")


def test_a_caller_that_hangs_up_unread_leaves_no_word_of_it_in_the_log(server: Server, client: Client) -> None:
    before = server.log.count("unread")
    with Http2Caller(server.address, window=0) as caller:
        caller.call(STREAM, NAMED)
        eventually(lambda: server.log.count("unread") > before)
    with client.stream([5], request_id="unread") as stream:
        next(stream)
    assert "Error" not in server.log and "Traceback" not in server.log


@pytest.mark.parametrize("path", [STREAM, GENERATE, WATCH])
def test_a_call_that_is_never_read_ends_with_its_connection(path: str) -> None:
    short = Server(max_age_ms=100, write_seconds=0.1, request_seconds=0.1)
    with short as server, server.client() as client, Http2Caller(server.address, window=0) as unread:
        unread.call(path, EVERYBODY if path == WATCH else PROMPT)
        unread.await_end()
        assert client.health() == "SERVING" and "Error" not in server.log


def test_a_watch_that_nobody_reads_keeps_nothing_from_anybody_else() -> None:
    with Server(**AT_ONCE) as server, server.client() as client, Http2Caller(server.address, window=0) as unread:
        for _ in range(3):
            unread.call(WATCH, EVERYBODY)
        unread.receive(b"application/grpc")
        with server.held():
            os.kill(int(client.model().device), signal.SIGKILL)
            eventually(lambda: client.health() == "NOT_SERVING")
        client.wait_until_ready(PATIENCE_SECONDS)
        server.send(signal.SIGTERM)
        assert server.end() == 0


@pytest.mark.parametrize("path", [STREAM, GENERATE])
def test_a_server_ends_in_time_whoever_does_not_read(path: str) -> None:
    with Server(**AT_ONCE) as server, server.client() as client, Http2Caller(server.address, window=0) as unread:
        for _ in range(4):
            unread.call(path, PROMPT)
        unread.receive(b"x-request-id", times=4)
        eventually(lambda: all_free(client))
        server.send(signal.SIGTERM)
        assert server.end() == 0 and "Traceback" not in server.log


# --- who does not send ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [GENERATE, STREAM, WATCH, "/moesaic.v1.Models/ListModels"])
def test_a_call_without_a_message_is_ended(server: Server, path: str) -> None:
    with Http2Caller(server.address) as caller:
        caller.headers(path)
        caller.receive(b"no whole message of this call arrived within 0.1 s (--receive-seconds)")


def test_a_call_with_half_a_message_is_ended(server: Server) -> None:
    with Http2Caller(server.address) as caller:
        caller.send(caller.headers(GENERATE), b"\0\0\0\x10\0half")
        caller.receive(b"no whole message of this call arrived")


def test_a_call_that_is_closed_without_a_message_is_told_so(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(GENERATE)(iter(()))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "request: is empty" in caught.value.details()


def test_reflection_is_ended_when_nothing_is_asked_and_knows_bytes_that_are_no_question(server: Server) -> None:
    ask = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with Http2Caller(server.address) as caller, grpc.insecure_channel(server.address) as channel:
        caller.headers(ask)
        caller.receive(b"no whole message of this call arrived")
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(ask)(iter([b"\xff\xff"])))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# --- who takes long ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Generate", "GenerateStream"])
def test_a_request_that_takes_longer_than_one_may_is_ended_and_frees_its_slot(name: str) -> None:
    with Server(request_seconds=0.3) as server, server.client() as client, server.held():
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
            answer: Any = stub(channel, GENERATION, name)(pb.GenerateRequest(token_ids=pb.TokenIds(ids=[HOLD])))
            list(answer)
        error = error_of(caught.value)
        assert isinstance(error, Expired) and error.reason == "REQUEST_TOO_LONG" and "0.3 s" in str(error)
        eventually(lambda: all_free(client))


def test_a_watch_may_take_as_long_as_it_likes() -> None:
    short = Server(request_seconds=0.1, **AT_ONCE)
    with short as server, server.client() as client, Http2Caller(server.address) as caller:
        caller.call(WATCH, EVERYBODY)
        caller.receive(b"application/grpc")
        with server.held(), pytest.raises(Expired):
            client.generate([HOLD])
        server.send(signal.SIGTERM)
        caller.receive(b"\x02\x08\x02")  # NOT_SERVING, in a message of two bytes
        assert server.end() == 0
