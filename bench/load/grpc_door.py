"""The gRPC door of moesaic: GenerateStream, on as many connections as the streams need."""

from collections.abc import Iterator, Mapping

import grpc
from google.protobuf.message import DecodeError

from ...proto import generation_pb2 as pb
from ...server.client_request import build_request
from ..server.connection import NO_STATUS, Connection, Event, arrived
from .arrivals import Asked
from .door import LOST, OK, Came

NO_CHUNK = "a message that is no chunk of an answer"
_STREAM = "/moesaic.v1.Generation/GenerateStream"
_STREAMS_A_CONNECTION = 90  # servers allow a hundred
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class GrpcDoor:
    """Streams of one model. Without TLS. token: of the caller."""

    def __init__(self, address: str, model: str = "", token: str = "") -> None:
        self._address, self._model = address, model
        self._headers: Mapping[str, str] = {"authorization": f"Bearer {token}"} if token else {}
        self._open: dict[tuple[Connection, int], int] = {}
        self._busy: dict[Connection, int] = {}  # streams of each connection
        self._failed: set[int] = set()  # whose answers hold what is none

    def send(self, key: int, prompt: str, asked: Asked) -> None:
        """Asks for so many tokens, most likely ones, on the connection that has fewest streams."""
        message = build_request(
            prompt, model=self._model, max_new_tokens=asked.new_tokens, temperature=0.0, ignore_eos=True,
            tier=asked.tier or None,
        ).SerializeToString()  # fmt: skip
        connection = self._connection()
        self._open[connection, connection.call(_STREAM, message, **self._headers)] = key
        self._busy[connection] += 1

    def arrived(self, seconds: float) -> Iterator[Came]:
        """Waits so long for something to come, and tells all that has; streams of a lost connection are over."""
        for event in arrived(self._busy, seconds):
            key = self._open.get((event.connection, event.stream))
            if key is not None:
                yield self._told(key, event)
        for connection in [connection for connection in self._busy if connection.is_over]:
            yield from self._lost(connection)

    def close(self) -> None:
        """Hangs up."""
        for connection in self._busy:
            connection.close()

    def _connection(self) -> Connection:
        free = min(self._busy, key=self._busy.__getitem__, default=None)
        if free is None or self._busy[free] >= _STREAMS_A_CONNECTION:
            free = Connection(self._address)
            self._busy[free] = 0
        return free

    def _told(self, key: int, event: Event) -> Came:
        if event.message is None:
            del self._open[event.connection, event.stream]
            self._busy[event.connection] -= 1
            end = _end_of(event.status)
            return Came(key, event.at, end=NO_CHUNK if end == OK and key in self._failed else end, said=event.said)
        try:
            chunk = pb.GenerateChunk.FromString(event.message)
        except DecodeError:
            self._failed.add(key)
            return Came(key, event.at)
        counted = chunk.HasField("usage")
        return Came(
            key, event.at, len(chunk.token_ids),
            prompt_tokens=chunk.usage.prompt_tokens if counted else None,
            all_tokens=chunk.usage.completion_tokens if counted else None,
        )  # fmt: skip

    def _lost(self, connection: Connection) -> Iterator[Came]:
        gone = [(place, key) for place, key in self._open.items() if place[0] is connection]
        connection.close()
        del self._busy[connection]
        at = connection.read_at
        for place, key in gone:
            del self._open[place]
            yield Came(key, at, end=LOST)


def _end_of(status: int) -> str:
    if status == 0:
        return OK
    return LOST if status == NO_STATUS else _NAMES.get(status, f"status {status}")
