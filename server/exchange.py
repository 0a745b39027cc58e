"""The messages of one call, each within the time that its caller has for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ..models.errors import Expired, InvalidRequest, Violation
from .writes import Write, Writes

_WORD_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds for a caller to send a message and to take one in, and for the whole of a call (None: no end)."""

    receive: float
    write: float
    whole: float | None


class Exchange:
    """What goes back and forth between a caller and the handler of one method."""

    def __init__(
        self, handler: grpc.RpcMethodHandler, context: grpc.aio.ServicerContext, limits: TimeLimits, writes: Writes
    ) -> None:
        self._parse: Callable[[bytes], Any] = handler.request_deserializer
        self._context = context
        self._limits = limits
        self._write = Write(writes)
        self._begun = False

    async def only_message(self) -> Any:
        """What a caller asks. Raises InvalidRequest for bytes that are no such message, Expired when none comes."""
        message = await self._read()
        if message is grpc.aio.EOF:
            await asyncio.sleep(_WORD_SECONDS)  # who has hung up looks like this, until gRPC says so and ends the call
            raise _malformed("is empty; a call of this method sends one message")
        return message

    async def messages(self) -> AsyncIterator[Any]:
        """All that a caller sends. Raises what `only_message` does."""
        while (message := await self._read()) is not grpc.aio.EOF:
            yield message

    async def send(self, message: Any) -> None:
        """Returns when there is room for more. Raises Unread when there is none in time; a status can follow it."""
        with self._write:
            if not self._begun:
                await self._begin()
            await self._context.write(message)

    async def _begin(self) -> None:
        """Headers go ahead: the core of gRPC takes no status while a write that brings them along is blocked."""
        self._begun = True
        with suppress(grpc.aio.UsageError):  # the handler has sent its own
            await self._context.send_initial_metadata(())

    async def _read(self) -> Any:
        try:
            async with asyncio.timeout(self._limits.receive):
                data = await self._context.read()
        except TimeoutError:
            limit = f"{self._limits.receive:g} s (--receive-seconds)"
            raise Expired(f"no whole message of this call arrived within {limit}", "NOT_RECEIVED") from None
        return data if data is grpc.aio.EOF else self._parsed(data)

    def _parsed(self, data: bytes) -> Any:
        try:
            return self._parse(data)
        except DecodeError:
            raise _malformed("is no protobuf message of this method, or holds text that is not UTF-8") from None


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest([Violation("request", why, "MALFORMED_MESSAGE")])
