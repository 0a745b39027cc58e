"""The HTTP door that OpenAI made common: /completions of moesaic, llama.cpp, vLLM and others, as a stream of events."""

import json
import select
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

import h11

from ...models.errors import AddressError
from .arrivals import Asked
from .door import LOST, OK, Came

_READ_BYTES = 1 << 16
_PATIENCE_SECONDS = 30.0


class OpenAIDoor:
    """Streams of one model; a connection for each that is open, kept for the next one. Without TLS.

    root: the path before /completions, as /v1.
    """

    def __init__(self, host: str, port: int, root: str, model: str, token: str = "") -> None:
        self._place, self._root, self._model = (host, port), root, model
        self._headers = [("host", f"{host}:{port}"), ("content-type", "application/json")]
        if token:
            self._headers.append(("authorization", f"Bearer {token}"))
        self._poll = select.poll()
        self._open: dict[int, _Call] = {}  # by descriptor
        self._idle: list[_Line] = []

    def send(self, key: int, prompt: str, asked: Asked) -> None:
        """Asks for so many tokens, most likely ones."""
        body: dict[str, Any] = {
            "prompt": prompt, "max_tokens": asked.new_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        if self._model:
            body["model"] = self._model
        if asked.tier:
            body["moesaic"] = {"tier": asked.tier}
        line = self._idle.pop() if self._idle else _Line(self._place)
        line.request("POST", f"{self._root}/completions", self._headers, json.dumps(body).encode())
        self._open[line.descriptor] = _Call(key, line)
        line.send()
        self._poll.register(line.descriptor, line.wanted)

    def arrived(self, seconds: float) -> Iterator[Came]:
        """Waits so long for something to come, and tells all that has."""
        for descriptor, ready in self._poll.poll(max(0.0, seconds) * 1000):
            call = self._open[descriptor]
            if ready & select.POLLOUT:
                call.line.send()
                self._poll.modify(descriptor, call.line.wanted)
            for came in call.told():
                if came.end:
                    self._over(descriptor, call)
                yield came

    def close(self) -> None:
        """Hangs up."""
        for line in [*self._idle, *(call.line for call in self._open.values())]:
            line.close()

    def _over(self, descriptor: int, call: "_Call") -> None:
        del self._open[descriptor]
        self._poll.unregister(descriptor)
        if call.line.again():
            self._idle.append(call.line)
        else:
            call.line.close()


class _Line:
    """One connection, whose bytes h11 reads and writes; it neither waits to be connected nor for room to send."""

    def __init__(self, place: tuple[str, int]) -> None:
        try:
            found = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0]
            self._socket = socket.socket(*found[:3])
        except OSError as error:  # no more descriptors, perhaps
            raise AddressError(f"{place[0]}:{place[1]} cannot be called: {error.strerror or error}") from None
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect_ex(found[4])
        self._unsent = b""
        self.descriptor = self._socket.fileno()
        self._http = h11.Connection(h11.CLIENT)

    def request(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> None:
        """Sends it as soon as there is room."""
        head = h11.Request(method=method, target=path, headers=[*headers, ("content-length", str(len(body)))])
        parts = [self._http.send(head), self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage())]
        self._unsent = b"".join(part for part in parts if part)

    @property
    def wanted(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def send(self) -> None:
        """As much as there is room for; that nobody listens is heard when it is read."""
        with suppress(OSError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def wait(self) -> None:
        """Until something can be sent or read, for a while at most."""
        poll = select.poll()
        poll.register(self.descriptor, self.wanted)
        poll.poll(1000 * _PATIENCE_SECONDS)
        self.send()

    def events(self) -> Iterator[Any]:
        """What has come: h11's events; LOST where the server hung up or spoke no HTTP."""
        try:
            self._http.receive_data(self._socket.recv(_READ_BYTES))
            while not isinstance(event := self._http.next_event(), type(h11.NEED_DATA)):
                yield LOST if isinstance(event, h11.ConnectionClosed) else event
                if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                    return
        except BlockingIOError:
            return
        except (OSError, h11.RemoteProtocolError):
            yield LOST

    def again(self) -> bool:
        """Whether another request may go this way."""
        try:
            self._http.start_next_cycle()
        except h11.LocalProtocolError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


class _Call:
    """One answer as it comes. Where the server does not count, each part that has text is one token."""

    def __init__(self, key: int, line: _Line) -> None:
        self.key, self.line = key, line
        self._status, self._rest, self._failed, self._said = 0, b"", "", b""

    def told(self) -> Iterator[Came]:
        for event in self.line.events():
            at = time.monotonic()
            if event is LOST:
                yield Came(self.key, at, end=LOST)
            elif isinstance(event, h11.Response):
                self._status = event.status_code
            elif isinstance(event, h11.Data) and self._status == 200:
                yield from self._parts(bytes(event.data), at)
            elif isinstance(event, h11.Data):
                self._said += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                yield Came(self.key, at, end=self._end(), said=self._said[:300].decode(errors="replace"))

    def _end(self) -> str:
        return self._failed or (OK if self._status == 200 else f"HTTP {self._status}")

    def _parts(self, data: bytes, at: float) -> Iterator[Came]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and (text := line[5:].strip()) != b"[DONE]":
                yield self._part(json.loads(text), at)

    def _part(self, part: Mapping[str, Any], at: float) -> Came:
        if "error" in part:
            self._failed = "error in the stream"
        usage = part.get("usage") or {}
        texts = sum(bool(choice.get("text")) for choice in part.get("choices") or ())
        return Came(
            self.key, at, texts, prompt_tokens=usage.get("prompt_tokens"), all_tokens=usage.get("completion_tokens")
        )


def models_at(host: str, port: int, root: str, token: str = "") -> list[str]:
    """The names of GET /models. Raises AddressError where that is not what answers."""
    headers = [("host", f"{host}:{port}")] + ([("authorization", f"Bearer {token}")] if token else [])
    body, whole = b"", False
    with closing(_Line((host, port))) as line:
        line.request("GET", f"{root}/models", headers)
        while not whole:
            line.wait()
            for event in line.events():
                if event is LOST:
                    raise AddressError(f"what answers at {host}:{port} speaks no HTTP")
                body += bytes(event.data) if isinstance(event, h11.Data) else b""
                whole = whole or isinstance(event, h11.EndOfMessage)
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        raise AddressError(f"{host}:{port}{root}/models does not list models as OpenAI's does") from None
