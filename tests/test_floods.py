"""Callers of too much: calls, watches, resets, silent connections. What others see of it."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from patience import eventually
from server_harness import Server

from moesaic.bench.server.http2_caller import Http2Caller
from moesaic.models.errors import AddressError, Overloaded, Unavailable
from moesaic.proto import generation_pb2 as pb
from moesaic.server.calls import Calls
from moesaic.server.client import Client
from moesaic.server.handlers import GENERATION, stub

GENERATE, STREAM = "/moesaic.v1.Generation/Generate", "/moesaic.v1.Generation/GenerateStream"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
WATCH = "/grpc.health.v1.Health/Watch"
EVERYBODY = health_pb2.HealthCheckRequest().SerializeToString()
LONG = pb.GenerateRequest(text="Once", stopping=pb.Stopping(max_new_tokens=400)).SerializeToString()


def honest(client: Client) -> bool:
    """Whether somebody else is served, and told that the server does."""
    served = client.generate([5], max_new_tokens=2).token_ids == (5, 5)
    return served and client.health() == client.health("model:echo") == "SERVING" and bool(client.models())


# --- many calls on one connection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [GENERATE, STREAM, WATCH, REFLECT, "/moesaic.v1.Models/GetModel", "/no.Such/Method"])
def test_a_thousand_calls_of_headers_alone_on_one_connection_keep_nobody_out(
    server: Server, client: Client, path: str
) -> None:
    with Http2Caller(server.address) as caller:
        for _ in range(1200):
            caller.headers(path)
        assert honest(client)


def test_a_thousand_watches_on_one_connection_keep_nobody_out(server: Server, client: Client) -> None:
    with Http2Caller(server.address) as caller:
        for _ in range(1200):
            caller.call(WATCH, EVERYBODY)
        caller.receive(b"application/grpc")
        assert honest(client)


def test_a_thousand_watches_on_twelve_connections_keep_nobody_out(server: Server, client: Client) -> None:
    with ExitStack() as stack:
        for _ in range(12):
            caller = stack.enter_context(Http2Caller(server.address))
            for _ in range(100):
                caller.call(WATCH, EVERYBODY)
            caller.receive(b"application/grpc")
        assert honest(client)


def test_thousands_of_calls_that_are_reset_cancel_nobody_else(server: Server, client: Client) -> None:
    with Http2Caller(server.address) as caller:
        for _ in range(20):
            for _ in range(500):
                caller.reset(caller.call(STREAM, LONG))
            assert honest(client)


class Call:
    """A call as the server counts it."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self.end: Callable[[Any], None] = lambda _: None

    def peer(self) -> str:
        return self._peer

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.end = callback


def test_nobody_fills_the_room_for_calls() -> None:
    calls = Calls(10)
    greedy = [Call("greedy") for _ in range(10)]
    for call in greedy:
        calls.enter(call)
    with pytest.raises(Overloaded, match="10 calls of this caller are under way"):
        calls.enter(Call("greedy"))
    for i in range(30):
        calls.enter(Call(f"modest {i}"))
    with pytest.raises(Overloaded):
        calls.enter(Call("modest 3"))


def test_a_call_that_is_over_makes_room_for_another() -> None:
    calls, first = Calls(1), Call("me")
    calls.enter(first)
    first.end(None)
    calls.enter(Call("me"))


# --- connections ---------------------------------------------------------------------------------------------------


def test_more_connections_than_there_is_room_for_are_closed_at_once() -> None:
    with Server(max_connections=2) as server, ExitStack() as stack:
        held = [stack.enter_context(Http2Caller(server.address)) for _ in range(2)]
        for caller in held:
            caller.call("/grpc.health.v1.Health/Check", EVERYBODY)
            caller.receive(b"grpc-status")
        with Http2Caller(server.address) as late:
            late.await_end()
        assert "max_connections=2" in server.printed


def test_silent_connections_leave_the_files_that_an_engine_needs_and_are_closed_soon() -> None:
    with Server(files=64) as server, server.client() as client, ExitStack() as stack:
        assert "room for 24 connections, since this process may open few files" in server.printed
        host, _, port = server.address.rpartition(":")
        engine = int(client.model().device)
        client.close()
        silent = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(100)]
        os.kill(engine, signal.SIGKILL)
        assert len(silent) == 100
        with server.client() as again:
            eventually(lambda: served_by_another(again, engine))
        assert "cannot be started" not in server.log


def served_by_another(client: Client, engine: int) -> bool:
    try:
        return int(client.model().device) != engine and len(client.generate([5], max_new_tokens=2).token_ids) == 2
    except (AddressError, Unavailable):
        return False


def test_a_process_that_may_open_too_few_files_is_told_so_and_does_not_start() -> None:
    with Server(files=40, said="") as server:
        assert server.end() == 2
        assert "this process may open 40 files, a server needs 48; raise it with ulimit -n" in server.log


def test_more_streams_than_a_connection_may_have_wait_at_their_caller() -> None:
    with Server(max_streams=2) as server, grpc.insecure_channel(server.address) as channel:
        ask = stub(channel, GENERATION, "Generate")
        calls: list[Any] = [ask.future(pb.GenerateRequest(text="x")) for _ in range(8)]  # type: ignore[attr-defined]
        assert all(call.result().model == "echo" for call in calls)
