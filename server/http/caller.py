"""Who makes a request at this door."""

from starlette.requests import Request


def caller_of(request: Request) -> str:
    """The name by which a caller is counted and has its turn: its connection, while nobody has another name."""
    client = request.client
    return f"http:{client.host}:{client.port}" if client else "http"
