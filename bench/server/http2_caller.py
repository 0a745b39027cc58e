"""A caller that speaks HTTP/2 by hand, and so can do what no client of gRPC does: grant no window, stop half-way."""

import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

DATA, HEADERS, RESET, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM = ACK = 1
END_HEADERS = 4
WIDE = 1 << 30
PATIENCE_SECONDS = 180.0  # for the server to say something
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INITIAL_WINDOW_SIZE = 4
_CANCEL = 8


class Http2Caller:
    """One connection. Each of its streams may be sent `window` bytes until more is granted."""

    def __init__(self, address: str, window: int = WIDE) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), PATIENCE_SECONDS)
        self._next_stream = 1
        self._received = b""
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
        self._socket.sendall(_PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(SETTINGS, ACK, 0))

    def headers(self, path: str, **more: str) -> int:
        """Begins a call and sends no message; the number of its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fields |= {"content-type": "application/grpc", "te": "trailers", **more}
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        self._send(HEADERS, END_HEADERS, stream, block)
        return stream

    def large_headers(self, path: str, size: int) -> None:
        """Begins a call whose headers are as large as that, in many frames; what the server does is its own matter."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        part = b"\0" + _text("authorization") + _text("Bearer " + "x" * 100)
        with suppress(OSError):  # it may hang up meanwhile
            self._send(HEADERS, 0, stream, block)
            for _ in range(size // len(part)):
                self._send(CONTINUATION, 0, stream, part)
            self._send(CONTINUATION, END_HEADERS, stream, part)

    def call(self, path: str, message: bytes, **more: str) -> int:
        """A whole call with one short message; the number of its stream."""
        stream = self.headers(path, **more)
        self.send(stream, struct.pack(">BI", 0, len(message)) + message, END_STREAM)
        return stream

    def send(self, stream: int, data: bytes, flags: int = 0) -> None:
        self._send(DATA, flags, stream, data)

    def reset(self, stream: int) -> None:
        self._send(RESET, 0, stream, struct.pack(">I", _CANCEL))

    def grant(self, stream: int, size: int = 1 << 20) -> None:
        """Lets so many more bytes come on a stream."""
        self._send(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))

    def receive(self, text: bytes, times: int = 1) -> None:
        """Returns when this has come so many times, in whatever frames."""
        while self._received.count(text) < times:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError(f"the server hung up, and never said {text!r}")
            self._received += data

    def forget(self) -> None:
        """Reads what has come, and keeps none of it."""
        with suppress(BlockingIOError):
            while self._socket.recv(1 << 16, socket.MSG_DONTWAIT):
                pass

    def await_end(self) -> None:
        """Returns when the server has hung up."""
        try:
            while self._socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self._socket.sendall(_frame(kind, flags, stream, payload))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """A string of HPACK as it stands; none here is longer than its length byte can say."""
    data = value.encode()
    return bytes((len(data),)) + data
