"""A caller that speaks HTTP/1.1 by hand, and so can send half of a thing, or never read."""

import json
import socket
import struct
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from patience import PATIENCE_SECONDS

SMALL = 4096  # of what a caller takes in that is not read


class HttpCaller:
    """One connection to a server. What it answers is read when asked for."""

    def __init__(self, web: str, receives: int | None = None) -> None:
        address = urlsplit(web)
        self._socket = socket.socket()
        if receives is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        self._socket.settimeout(PATIENCE_SECONDS)
        self._socket.connect((address.hostname, address.port))
        self._received = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def head(self, path: str = "/v1/completions", **headers: Any) -> None:
        """A request up to its body."""
        fields = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = [f"{'GET' if not headers.get('content_length') else 'POST'} {path} HTTP/1.1"]
        self.send("\r\n".join([*lines, *(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode())

    def post(self, body: object, path: str = "/v1/completions", **headers: str) -> None:
        """A whole request; a body that is no bytes is written as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.head(path, content_length=len(data), **headers)
        self.send(data)

    def answer(self) -> tuple[int, Any]:
        """The code and the JSON of the next response."""
        head = self.receive(b"\r\n\r\n")
        size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        while len(self._received) < size:
            self._more()
        body, self._received = self._received[:size], self._received[size:]
        return int(head.split()[1]), json.loads(body)

    def receive(self, text: bytes) -> bytes:
        """What comes up to this text."""
        while text not in self._received:
            self._more()
        found, _, self._received = self._received.partition(text)
        return found

    def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        try:
            while True:
                self._more()
        except (AssertionError, ConnectionResetError):
            return self._received

    def reset(self) -> None:
        """Goes without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _more(self) -> None:
        data = self._socket.recv(1 << 16)
        assert data, f"the server hung up after {self._received!r}"
        self._received += data


def asked(web: str, body: object, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
    """The code and the JSON of the answer to one request."""
    with HttpCaller(web) as caller:
        caller.post(body, path, **headers)
        return caller.answer()
