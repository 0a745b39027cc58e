"""The worst callers there are, one kind at a time, in a process of their own: until it is ended.

python -m moesaic.bench.server.attacks KIND ADDRESS WEB

It is nice to others of its machine, since a caller who attacks is usually not on it.
"""

import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import cycle, islice

from grpc_health.v1 import health_pb2

from ...proto import generation_pb2 as pb
from .connection import Connection, arrived
from .http2_caller import END_STREAM, Http2Caller
from .overload import GENERATE
from .streams import STREAM, asking

WATCH = "/grpc.health.v1.Health/Watch"
EVERYBODY = health_pb2.HealthCheckRequest().SerializeToString()
_NICE = 10
_AT_ONCE, _MANY = 8, 1200
_MIB = 1 << 20
_TURN_SECONDS = 0.02


def large_texts(address: str, _: str) -> None:
    """Texts of a megabyte that no window holds, millions of token ids and stop strings, and long texts that fit."""
    stop = pb.GenerateRequest(text="x", stopping=pb.Stopping(stop_strings=["x"] * (_MIB // 2))).SerializeToString()
    ids = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5] * (2 * _MIB))).SerializeToString()
    kinds = cycle([asking(8, text="word " * (_MIB // 5)), ids, stop, asking(8, text="once upon a time " * 3000)])
    _keep_asking(address, kinds, _AT_ONCE)


def floods(address: str, _: str) -> None:
    """Requests that come again as soon as they are refused, two hundred at a time on ten connections."""
    _keep_asking(address, cycle([asking(8)]), 200, 10)


def unread_streams(address: str, _: str) -> None:
    """Streams of long answers on connections that grant nothing, begun again and again."""
    message = asking(2000)
    while True:
        with ExitStack() as stack:
            for _turn in range(4):
                caller = stack.enter_context(Http2Caller(address, window=0))
                for _stream in range(16):
                    caller.call(STREAM, message)
            time.sleep(2.0)


def watches(address: str, _: str) -> None:
    """A thousand watches of the health on twelve connections, none of which is read."""
    with ExitStack() as stack:
        for _connection in range(12):
            caller = stack.enter_context(Http2Caller(address))
            for _call in range(_MANY // 12):
                caller.call(WATCH, EVERYBODY)
        threading.Event().wait()


def headers_alone(address: str, _: str) -> None:
    """More than a thousand calls of headers alone on each of four connections, again and again."""
    while True:
        with ExitStack() as stack:
            for _connection in range(4):
                caller = stack.enter_context(Http2Caller(address))
                for _call in range(_MANY):
                    caller.headers(STREAM)
            time.sleep(1.0)


def resets(address: str, _: str) -> None:
    """Requests that are reset as soon as they are sent, a few hundred in each breath, on four connections."""
    message = asking(400)
    with ExitStack() as stack:
        callers = [stack.enter_context(Http2Caller(address)) for _ in range(4)]
        while True:
            for caller in callers:
                for _call in range(50):
                    caller.reset(caller.call(STREAM, message))
                caller.forget()
            time.sleep(_TURN_SECONDS)


def http_bodies(_: str, web: str) -> None:
    """Bodies of three megabytes of JSON, nested, wide or of one text, whole and half, at the HTTP door."""
    wide = json.dumps({"prompt": "x", "stop": ["x"] * (_MIB // 2)}).encode()
    text = json.dumps({"prompt": "word " * (_MIB // 2)}).encode()
    nested = b'{"prompt": ' + b"[" * _MIB + b"]" * _MIB + b"}"
    for body, whole in cycle([(wide, True), (text, True), (nested, True), (text, False)]):
        with suppress(OSError), socket.create_connection(_place(web), 2.0) as caller:
            head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            caller.sendall(head.encode() + (body if whole else body[: len(body) // 2]))
            if whole:
                caller.recv(1 << 16)


ATTACKS: dict[str, Callable[[str, str], None]] = {
    "large texts": large_texts, "unread streams": unread_streams, "watches": watches,
    "headers alone": headers_alone, "resets": resets, "floods": floods, "HTTP bodies": http_bodies,
}  # fmt: skip


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _keep_asking(address: str, messages: Iterator[bytes], count: int, num_connections: int = 2) -> None:
    """So many calls are open at any time, whatever is answered."""
    with _connected(address, num_connections) as connections:
        for connection, message in zip(cycle(connections), islice(messages, count), strict=False):
            _ask(connection, message)
        while not all(connection.is_over for connection in connections):
            for event in arrived(connections, 1.0):
                if event.message is None:
                    _ask(event.connection, next(messages))


@contextmanager
def _connected(address: str, count: int) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Connection(address)) for _ in range(count)]


def _ask(connection: Connection, message: bytes) -> None:
    """A call whose message may be large, in frames that the server takes."""
    stream, data = connection.headers(GENERATE), struct.pack(">BI", 0, len(message)) + message
    parts = [data[begin : begin + (1 << 14)] for begin in range(0, len(data), 1 << 14)]
    for part in parts[:-1]:
        connection.send(stream, part)
    connection.send(stream, parts[-1], END_STREAM)


def main() -> None:
    """The entry of the process."""
    kind, address, web = sys.argv[1:]
    os.nice(_NICE)
    with suppress(KeyboardInterrupt, OSError):  # hung up on, as it deserves
        ATTACKS[kind](address, web)


if __name__ == "__main__":
    main()
