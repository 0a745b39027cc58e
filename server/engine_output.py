"""What an engine process and its libraries print: lines in our log, each under the name of its model."""

import asyncio
import logging
import os
from typing import BinaryIO

from .log_lines import LineCutter

LAST_WORDS_SECONDS = 0.5  # a process of the engine's own may still hold the pipe

_log = logging.getLogger("moesaic.engine")


class EngineOutput(asyncio.Protocol):
    """The reading end of a pipe. `writer` is for the process, and to be closed here once it has started."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines = LineCutter()
        self._transport: asyncio.BaseTransport | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writer: BinaryIO

    @classmethod
    async def open(cls, name: str) -> "EngineOutput":
        """A pipe of which all that arrives is logged."""
        ours, theirs = os.pipe()
        reader = os.fdopen(ours, "rb", 0)
        _, output = await asyncio.get_running_loop().connect_read_pipe(lambda: cls(name), reader)
        output.writer = os.fdopen(theirs, "wb", 0)
        return output

    async def end(self) -> None:
        """Waits a moment for the last words, and closes the pipe."""
        await asyncio.wait((self._closed,), timeout=LAST_WORDS_SECONDS)
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._say(self._lines.feed(data))

    def connection_lost(self, error: Exception | None) -> None:
        self._say(self._lines.rest())
        if not self._closed.done():
            self._closed.set_result(None)

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            _log.warning("%s: %s", self._name, line)
