"""The loop of a server: it wakes once for all that gRPC has to tell it, and no search for rings holds it up."""

import asyncio
import gc
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVarTuple

_Given = TypeVarTuple("_Given")

_OWNER = "PollerCompletionQueue"  # of gRPC: its thread writes a byte for each event, and a turn of the loop reads one
_MOST_BYTES = 1 << 16  # as many events as no socket holds


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's own, in which the bytes by which gRPC wakes it are read together.

    gRPC tells all its events in one turn and reads the byte of one. The others wake the loop again for nothing; and
    where turns come more slowly than events, they fill the socket: its thread waits there for room, and from then on
    each turn, however short, brings one event alone to all calls of the server.
    """

    def add_reader(self, fd: Any, callback: Callable[[*_Given], Any], *args: *_Given) -> None:
        """Calls when there is something to read."""
        if isinstance(fd, socket.socket) and is_of_grpc(callback):
            super().add_reader(fd, _call_once, fd, callback, *args)
        else:
            super().add_reader(fd, callback, *args)


def is_of_grpc(callback: Callable[..., Any]) -> bool:
    """Whether gRPC tells its events by it."""
    method = callback.func if isinstance(callback, partial) else callback
    return type(getattr(method, "__self__", None)).__name__ == _OWNER


def _call_once(waker: socket.socket, callback: Callable[[*_Given], Any], *args: *_Given) -> None:
    """Leaves the last byte to the callback, which reads one."""
    if (waiting := len(waker.recv(_MOST_BYTES, socket.MSG_PEEK))) > 1:
        waker.recv(waiting - 1)
    callback(*args)


def set_aside_what_is_there() -> None:
    """Has the garbage collector look at newer objects alone: modules, models and services stay until the end, and to
    go through all of them takes a tenth of a second, in which nobody is served.
    """
    gc.collect()
    gc.freeze()
