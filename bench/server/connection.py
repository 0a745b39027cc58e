"""The load generator's connection: calls of gRPC by hand, of which a Python client could not bear a tenth.

What has come is told as events with the time at which it was read; nothing waits for anything.
"""

import re
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

from ...models.errors import AddressError
from .http2_caller import ACK, DATA, END_STREAM, HEADERS, PING, RESET, SETTINGS, Http2Caller

OK, CANCELLED, EXHAUSTED, NO_STATUS = 0, 1, 8, -1
_OF_RESETS = {7: 14, 8: CANCELLED, 11: EXHAUSTED}  # by HTTP/2's error code, as gRPC reads it; INTERNAL of all others
_INTERNAL = 13
_GOAWAY = 7
_TABLE_SIZE = struct.pack(">HI", 1, 0)  # no table of headers is kept, so that each stands in its frame as it is
_STATUS = re.compile(rb"grpc-status.(\d+)", re.DOTALL)
_PUSHBACK = re.compile(rb"grpc-retry-pushback-ms.(\d+)", re.DOTALL)
_READ_BYTES = 1 << 18
_WINDOW = 1 << 30


@dataclass(frozen=True, slots=True)
class Event:
    """A message of a call, or its end, where that is None. at: by the monotonic clock, when it was read."""

    connection: "Connection"
    stream: int
    at: float
    message: bytes | None = None
    status: int = NO_STATUS
    said: str = ""  # why
    pushback: float | None = None  # seconds


class Connection(Http2Caller):
    """Calls on one connection; `events` has what came of them. Raises AddressError where nobody listens."""

    def __init__(self, address: str) -> None:
        self.is_over = False
        try:
            super().__init__(address)
        except OSError as error:
            raise AddressError(f"nobody answers at {address}: {error.strerror or error}") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send(SETTINGS, 0, 0, _TABLE_SIZE)
        self.grant(0, _WINDOW)
        self._granted = _WINDOW
        self._buffer = b""
        self._parts: dict[int, bytes] = {}  # of messages that are not whole yet
        self._living: set[int] = set()  # streams that have not ended
        self.read_at = time.monotonic()  # when something was read last

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def headers(self, path: str, **more: str) -> int:
        """Begins a call; the number of its stream."""
        stream = super().headers(path, **more)
        self._living.add(stream)
        return stream

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        try:
            super()._send(kind, flags, stream, payload)
        except ConnectionError:
            self.is_over = True

    def events(self) -> Iterator[Event]:
        """What has come since. After `is_over` nothing comes, nor do the ends of calls that are open."""
        try:
            data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.read_at = at = time.monotonic()
        self.is_over = not data
        self._give_back(len(data))
        buffer, begin = self._buffer + data, 0
        while len(buffer) - begin >= 9:
            end = begin + 9 + int.from_bytes(buffer[begin : begin + 3])
            if end > len(buffer):
                break
            stream = int.from_bytes(buffer[begin + 5 : begin + 9]) & 0x7FFFFFFF
            yield from self._frame(buffer[begin + 3], buffer[begin + 4], stream, buffer[begin + 9 : end], at)
            begin = end
        self._buffer = buffer[begin:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes, at: float) -> Iterator[Event]:
        if kind == DATA:
            yield from self._messages(stream, payload, at)
        elif kind == HEADERS and flags & END_STREAM:
            yield self._ended(stream, payload, at)
        elif kind == RESET and stream in self._living:  # an answer that comes before its question is whole ends in one
            self._forget(stream)
            yield Event(self, stream, at, status=_OF_RESETS.get(int.from_bytes(payload), _INTERNAL))
        elif kind == PING and not flags & ACK:  # the server's settings were acknowledged at the beginning
            self._send(PING, ACK, 0, payload)
        elif kind == _GOAWAY:
            self.is_over = True

    def _messages(self, stream: int, payload: bytes, at: float) -> Iterator[Event]:
        data = self._parts.pop(stream, b"") + payload
        while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[1:5])):
            yield Event(self, stream, at, data[5:end])
            data = data[end:]
        if data:
            self._parts[stream] = data

    def _forget(self, stream: int) -> None:
        self._parts.pop(stream, None)
        self._living.discard(stream)

    def _ended(self, stream: int, block: bytes, at: float) -> Event:
        self._forget(stream)
        status, pushback = _STATUS.search(block), _PUSHBACK.search(block)
        return Event(
            self, stream, at,
            status=int(status[1]) if status else NO_STATUS,
            said=_said(block),
            pushback=int(pushback[1]) / 1000 if pushback else None,
        )  # fmt: skip

    def _give_back(self, size: int) -> None:
        """Keeps the connection's window wide."""
        self._granted -= size
        if self._granted < _WINDOW // 2:
            self.grant(0, _WINDOW - self._granted)
            self._granted = _WINDOW

    def __enter__(self) -> Self:
        return self


def _said(block: bytes) -> str:
    """grpc-message, as it stands in a block without a table: a length of seven bits or more bytes, and the text."""
    _, found, rest = block.partition(b"grpc-message")
    if not found:
        return ""
    size, at = rest[0] & 0x7F, 1
    if size == 0x7F:
        while rest[at] & 0x80:
            size, at = size + ((rest[at] & 0x7F) << 7 * (at - 1)), at + 1
        size, at = size + (rest[at] << 7 * (at - 1)), at + 1
    return unquote(rest[at : at + size].decode("latin-1"))


def arrived(connections: Iterable[Connection], seconds: float) -> Iterator[Event]:
    """Waits so long for something to come, on whichever connection, and tells all of it."""
    living = {connection.fileno(): connection for connection in connections if not connection.is_over}
    poll = select.poll()
    for descriptor in living:
        poll.register(descriptor, select.POLLIN)
    for descriptor, _ in poll.poll(max(0.0, seconds) * 1000):
        yield from living[descriptor].events()
