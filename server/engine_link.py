"""The front end's end of the socket to an engine process: whole events in, commands out."""

import asyncio
from collections.abc import Callable

from ..proto import engine_pb2 as pb
from .frames import FrameBuffer, frame


class Link(asyncio.Protocol):
    """Calls `on_event` with each event that arrives, and `on_room` when commands may be written again.

    closed: done when the other end is gone, or `close` was called.
    """

    def __init__(self, on_event: Callable[[pb.Event], None], on_room: Callable[[], None]) -> None:
        self._on_event, self._on_room = on_event, on_room
        self._buffer = FrameBuffer()
        self._transport: asyncio.WriteTransport | None = None
        self._is_full = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def has_room(self) -> bool:
        """Whether the other end takes in what is written; aborts are small and go out at any time."""
        return not self._is_full

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        # What raises here is logged by asyncio and closes the transport: the engine is started again.
        for payload in self._buffer.feed(data):
            self._on_event(pb.Event.FromString(payload))

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._on_room()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, command: pb.Command) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(command))

    def close(self) -> None:
        """Ends the connection now, whatever is still to be written."""
        if self._transport is not None:
            self._transport.abort()
