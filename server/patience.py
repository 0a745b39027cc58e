"""A request to a model that still loads, sent again once it has loaded, in the time that the caller gave. No torch."""

import time
from collections.abc import Callable, Iterator

from ..engine.completion import Chunk
from ..models.errors import AddressError, Unavailable
from .client import Client

POLL_SECONDS = 0.2

Ask = Callable[[float | None], Iterator[Chunk]]  # sends the request, with so many seconds left
Tell = Callable[[str, float], None]  # the model that loads, and for how many seconds it was waited for


def when_loaded(client: Client, ask: Ask, model: str, timeout: float | None, tell: Tell) -> Iterator[Chunk]:
    """The chunks of a request, after the model has loaded where it still does.

    Raises what the request raises, at once where nobody answers; Unavailable where `timeout` seconds are over first,
    or the server ends.
    """
    began = time.monotonic()
    try:
        yield from ask(timeout)
        return
    except Unavailable as error:
        if error.reason != "LOADING":  # said before the first chunk only
            raise
    _wait(client, model, began, timeout, tell)
    yield from ask(None if timeout is None else max(began + timeout - time.monotonic(), 0.0))


def _wait(client: Client, model: str, began: float, timeout: float | None, tell: Tell) -> None:
    """Returns once the model is in another state than LOADING."""
    name = model
    while True:
        waited = time.monotonic() - began
        if timeout is not None and waited >= timeout:
            raise Unavailable(f"model {name} is still loading after {timeout:g} s; give it more time", "LOADING", 1.0)
        try:
            info = client.model(model, None if timeout is None else timeout - waited)
        except AddressError:
            message = f"the server at {client.address} ended while it was loading {name}; its log says why"
            raise Unavailable(message, "CONNECTION_LOST") from None
        if info.state != "LOADING":
            return
        name = info.name
        tell(name, waited)
        time.sleep(min(POLL_SECONDS, POLL_SECONDS if timeout is None else max(timeout - waited, 0.0)))
