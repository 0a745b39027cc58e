"""Who makes a request at this door."""

from collections.abc import Sequence

from starlette.requests import Request


def caller_of(request: Request) -> str:
    """The name by which a caller is counted and has its turn: its connection, while nobody has another name."""
    return connection_name(request.client)


def connection_name(client: Sequence[object] | None) -> str:
    """A name for the other end of a connection, a pair of host and port."""
    return ":".join(("http", *map(str, client or ())))
