"""The HTTP door: a socket of its own, in the process and the loop of the gRPC server."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..exchange import TimeLimits
from ..listening import place
from .connections import Crowd, PatientProtocol
from .hello import Hello

BACKLOG = 1024
ACCEPTED_AT_A_TIME = 8  # in a turn of the loop: one too many is closed in the next, and has a file until then
UNREAD_BYTES = 1 << 17  # of an answer that wait in the system for a caller who does not read; it doubles them
IDLE_SECONDS = 30  # between two requests of a connection


class HttpDoor:
    """Listens when it is made, answers once it is started."""

    def __init__(self, listener: socket.socket, most_connections: int) -> None:
        self._listener = listener
        self._most = most_connections
        self._crowd: Crowd | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return place(*self._listener.getsockname()[:2])

    def start(
        self, app: ASGIApp, limits: TimeLimits, gone: Callable[[str], None], context: ssl.SSLContext | None
    ) -> None:
        """Begins to answer. gone: is told the name of each caller whose connection has been closed. context: of TLS."""
        self._crowd = Crowd(self._most, gone)
        protocol: Any = partial(PatientProtocol, self._crowd, limits.receive, limits.write)  # called as a class is
        if context is not None:
            protocol = partial(Hello, self._crowd, context, protocol)
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, log_level="critical",
            access_log=False, proxy_headers=False, server_header=False, timeout_keep_alive=IDLE_SECONDS,
            backlog=ACCEPTED_AT_A_TIME,
        )  # fmt: skip
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([self._listener]))

    def close(self) -> None:
        """Gives the port back, of one that has not been started."""
        self._listener.close()

    async def stop(self, seconds: float) -> None:
        """Takes no more, gives what is under way so long to end, and closes all."""
        if self._server is None or self._serving is None or self._crowd is None:
            self.close()
            return
        self._server.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]  # it may be a fraction
        self._server.should_exit = True
        await asyncio.wait((self._serving,))
        self._crowd.abort()


class _Server(uvicorn.Server):
    """One whose end is asked for by `should_exit` alone: signals are the whole server's."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """To asyncio a backlog is what it accepts in a turn; to the system, what waits for it."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)  # connections have it from here
        listener.bind((host, port))
        listener.listen(BACKLOG)
        return listener
    except OSError:
        listener.close()
        raise
