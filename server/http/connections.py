"""The connections of the HTTP door: how many there are, and how long each may keep others waiting."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from uvicorn.protocols.http.h11_impl import H11Protocol

from .caller import connection_name


class Member(Protocol):
    """A connection as the others see it. client: the other end, once it may ask something."""

    transport: asyncio.Transport
    client: tuple[str, int] | None

    @property
    def is_at_work(self) -> bool:
        """Whether it is better not closed."""


class Crowd:
    """The connections that are open, the oldest first. Where one is too many, one that asks nothing makes room.

    gone: is told the name of each that has been closed.
    """

    def __init__(self, most: int, gone: Callable[[str], None]) -> None:
        self._most, self._gone = most, gone
        self._members: dict[Member, None] = {}

    def enter(self, connection: "Member") -> None:
        """Takes in a connection, or closes it where all others are at work."""
        if len(self._members) >= self._most:
            idle = next((each for each in self._members if not each.is_at_work), connection)
            self._members.pop(idle, None)
            idle.transport.abort()
        if not connection.transport.is_closing():
            self._members[connection] = None

    def leave(self, connection: "Member") -> None:
        """Forgets one that is gone."""
        self._members.pop(connection, None)
        if connection.client:
            self._gone(connection_name(connection.client))

    def abort(self) -> None:
        """Closes all, without last words."""
        for connection in list(self._members):
            connection.transport.abort()


class PatientProtocol(H11Protocol):
    """A connection that has so long to send the head of a request, and to take in what waits for it.

    The body of a request is timed by whoever reads it, the pause between two requests by uvicorn.
    """

    def __init__(self, crowd: Crowd, head_seconds: float, write_seconds: float, **given: Any) -> None:
        super().__init__(**given)
        self._crowd = crowd
        self._head = _Timer(head_seconds, self._abort)
        self._write = _Timer(write_seconds, self._abort)

    @property
    def is_at_work(self) -> bool:
        """Whether a request has come that is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._crowd.enter(self)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits for nothing any more."""
        self._head.stop()
        self._write.stop()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes in what has come."""
        super().data_received(data)
        self._wait_for_head()

    def on_response_complete(self) -> None:
        """The pause until the next request begins, which it may have done already."""
        self._head.stop()
        super().on_response_complete()
        if self.conn.trailing_data[0]:
            self._wait_for_head()
        self._time_close()

    def timeout_keep_alive_handler(self) -> None:
        """The pause was too long."""
        super().timeout_keep_alive_handler()
        self._time_close()

    def pause_writing(self) -> None:
        """The caller takes in less than there is for it."""
        super().pause_writing()
        self._write.start()

    def resume_writing(self) -> None:
        """It goes on."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._write.stop()

    def _wait_for_head(self) -> None:
        if self.is_at_work:
            self._head.stop()
        else:
            self._head.start()

    def _time_close(self) -> None:
        """A connection that is closed still waits until all is written."""
        if self.transport.is_closing():
            self._write.start()

    def _abort(self) -> None:
        self.transport.abort()


class _Timer:
    """Calls once, some seconds after it was started; to start it twice changes nothing."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds, self._call = seconds, call
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to count, unless it does so already."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._call)

    def stop(self) -> None:
        """Forgets it."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
