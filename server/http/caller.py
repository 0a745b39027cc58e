"""Who makes a request at this door."""

from collections.abc import Sequence

from starlette.requests import Request

from ..caller import this_caller


def caller_of(request: Request) -> str:
    """The name by which a caller is counted and has its turn: that of its token, else its connection."""
    return this_caller().name or connection_name(request.client)


def connection_name(client: Sequence[object] | None) -> str:
    """A name for the other end of a connection, a pair of host and port."""
    return ":".join(("http", *map(str, client or ())))
