"""One connection of HTTP/1.1 that waits for nothing."""

import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h11

from ...models.errors import AddressError
from .door import LOST

_READ_BYTES = 1 << 16
_PATIENCE_SECONDS = 30.0


class Line:
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
        self._unsent, self.num_requests = b"", 0
        self.descriptor = self._socket.fileno()
        self._http = h11.Connection(h11.CLIENT)

    def request(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> None:
        """Sends it as soon as there is room."""
        head = h11.Request(method=method, target=path, headers=[*headers, ("content-length", str(len(body)))])
        parts = [self._http.send(head), self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage())]
        self.num_requests += 1
        self._unsent = b"".join(part for part in parts if part)

    @property
    def wanted(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def send(self) -> None:
        """As much as there is room for; that nobody listens is heard when it is read."""
        with suppress(OSError):
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def wait(self) -> bool:
        """Until something can be sent or read, for a while at most; whether there was."""
        poll = select.poll()
        poll.register(self.descriptor, self.wanted)
        ready = poll.poll(1000 * _PATIENCE_SECONDS)
        self.send()
        return bool(ready)

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
        """Hangs up."""
        self._socket.close()
