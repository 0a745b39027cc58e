"""The HTTP door that OpenAI made common: /completions of moesaic, llama.cpp, vLLM and others, as a stream of events."""

import json
import select
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import h11

from ...models.errors import AddressError
from .arrivals import Asked
from .completion_event import read_part
from .door import LOST, OK, Came
from .http_line import Line

NO_STREAM = "HTTP 200 without a stream of events"
TOO_LONG = "a line without end"
_MOST_SAID, _LONGEST_LINE = 300, 1 << 20


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
        self._idle: list[Line] = []

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
        self._ask(key, json.dumps(body).encode(), self._idle.pop() if self._idle else Line(self._place))

    def _ask(self, key: int, body: bytes, line: Line) -> None:
        line.request("POST", f"{self._root}/completions", self._headers, body)
        self._open[line.descriptor] = _Call(key, body, line)
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
                if came.end == LOST and call.was_not_heard:
                    self._ask(call.key, call.body, Line(self._place))
                else:
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


class _Call:
    """One answer as it comes. Where the server does not count, each part that has text is one token."""

    def __init__(self, key: int, body: bytes, line: Line) -> None:
        self.key, self.body, self.line = key, body, line
        self._status, self._rest, self._failed, self._said, self._events = 0, b"", "", b"", 0

    @property
    def was_not_heard(self) -> bool:
        """It went to a connection that had been idle, and which the server may have closed before."""
        return not self._status and self.line.num_requests > 1

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
                self._say(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                yield from self._parts(b"\n", at)  # the last line may lack its end
                yield Came(self.key, at, end=self._end(), said=self._said.decode(errors="replace").strip())

    def _end(self) -> str:
        if self._status != 200:
            return f"HTTP {self._status}"
        return self._failed or (OK if self._events else NO_STREAM)

    def _parts(self, data: bytes, at: float) -> Iterator[Came]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            self._fail(TOO_LONG, self._rest)
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:"):
                self._events += 1
                if (text := line[5:].strip()) != b"[DONE]":
                    yield self._part(text, at)
            elif not self._events:
                self._say(line + b"\n")

    def _part(self, text: bytes, at: float) -> Came:
        part = read_part(text)
        if part.failed:
            self._fail(part.failed, text)
        return Came(self.key, at, part.texts, prompt_tokens=part.prompt_tokens, all_tokens=part.all_tokens)

    def _fail(self, why: str, said: bytes) -> None:
        """Of several faults the first is told."""
        if not self._failed:
            self._failed, self._said = why, said[:_MOST_SAID]

    def _say(self, data: bytes) -> None:
        self._said = (self._said + data)[:_MOST_SAID]


def models_at(host: str, port: int, root: str, token: str = "") -> list[str]:
    """The names of GET /models. Raises AddressError where that is not what answers, or nothing does."""
    headers = [("host", f"{host}:{port}")] + ([("authorization", f"Bearer {token}")] if token else [])
    body, whole = b"", False
    with closing(Line((host, port))) as line:
        line.request("GET", f"{root}/models", headers)
        while not whole:
            if not line.wait():
                raise AddressError(f"{host}:{port}{root}/models gives no answer; is it a server with OpenAI's API?")
            for event in line.events():
                if event is LOST:
                    raise AddressError(f"what answers at {host}:{port} speaks no HTTP")
                body += bytes(event.data) if isinstance(event, h11.Data) else b""
                whole = whole or isinstance(event, h11.EndOfMessage)
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AddressError(f"{host}:{port}{root}/models does not list models as OpenAI's does") from None
