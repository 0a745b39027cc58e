"""How often a server's loop wakes for what gRPC tells it, and what else may hold it up."""

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVarTuple

import grpc
import pytest

from moesaic.server.loop import ServingLoop, is_of_grpc, set_aside_what_is_there

Given = TypeVarTuple("Given")


class PollerCompletionQueue:
    """gRPC's, as it reads: one byte a turn, whatever there is."""

    def __init__(self, waker: socket.socket) -> None:
        self.waker, self.turns = waker, 0

    def tell(self, *_: object) -> None:
        self.turns += bool(self.waker.recv(1))


class Another(PollerCompletionQueue):
    """No part of gRPC."""


class Noting(ServingLoop):
    """Knows what it calls for a socket."""

    def __init__(self) -> None:
        self.called: list[Callable[..., Any]] = []
        super().__init__()

    def add_reader(self, fd: Any, callback: Callable[[*Given], Any], *args: *Given) -> None:
        self.called.append(callback)
        super().add_reader(fd, callback, *args)


def run(loop: Callable[[], asyncio.AbstractEventLoop], scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene)


@pytest.mark.parametrize(("kind", "turns"), [(PollerCompletionQueue, 1), (Another, 100)])
def test_a_hundred_events_of_grpc_wake_the_loop_once(kind: type[PollerCompletionQueue], turns: int) -> None:
    async def scene() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            queue = kind(ours)
            asyncio.get_running_loop().add_reader(ours, partial(queue.tell, "a loop"))
            theirs.sendall(b"1" * 100)
            for _ in range(200):
                await asyncio.sleep(0)
            asyncio.get_running_loop().remove_reader(ours)
            assert queue.turns == turns

    run(ServingLoop, scene())


def test_the_reader_of_grpc_is_known_by_its_name() -> None:
    noting = Noting()

    async def scene() -> None:
        await grpc.aio.insecure_channel("127.0.0.1:9").close()
        assert sum(map(is_of_grpc, noting.called)) == 1

    run(lambda: noting, scene())


class Ring:
    """Leads to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_rings_are_found_among_new_objects_alone() -> None:
    old = Ring()
    try:
        set_aside_what_is_there()
        new = weakref.ref(Ring())
        gone, found = weakref.ref(old), gc.get_objects()
        assert not any(each is old for each in found)
        del old, found
        gc.collect()
        assert new() is None and gone() is not None
    finally:
        gc.unfreeze()
