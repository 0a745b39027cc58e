"""The handshake of TLS, in which a connection has the room of one and little time."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from ..transport import HANDSHAKE_MS
from .connections import Crowd


class Hello(asyncio.Protocol):
    """A connection until both ends know that they speak TLS; then it is of `protocol`, made of what is `given`."""

    is_at_work = False
    client: tuple[str, int] | None = None

    def __init__(
        self, crowd: Crowd, context: ssl.SSLContext, protocol: Callable[..., asyncio.Protocol], **given: Any
    ) -> None:
        self.transport: asyncio.Transport
        self._crowd, self._context = crowd, context
        self._protocol, self._given = protocol, given
        self._early = b""
        self._shaking: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins the handshake, if there is room for a connection."""
        self.transport = transport
        transport.pause_reading()
        self._crowd.enter(self)
        if not transport.is_closing():
            self._shaking = asyncio.create_task(self._shake())

    def data_received(self, data: bytes) -> None:
        """What the other end says right behind its handshake."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """There was no room for it, or it is gone again."""
        self._crowd.leave(self)

    async def _shake(self) -> None:
        try:
            secured = await asyncio.get_running_loop().start_tls(
                self.transport, self, self._context, server_side=True, ssl_handshake_timeout=HANDSHAKE_MS / 1000
            )
        except OSError:  # those of TLS and of its time among them
            self.transport.abort()
            return
        finally:
            self._crowd.leave(self)
        if secured is not None and not secured.is_closing():
            protocol = self._protocol(**self._given)
            secured.set_protocol(protocol)
            protocol.connection_made(secured)
            if self._early:
                protocol.data_received(self._early)
