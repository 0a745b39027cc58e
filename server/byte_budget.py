"""How many bytes of requests a server holds at a time, whoever sent them."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..models.errors import Overloaded


class ByteBudget:
    """Counts the bytes of the requests in flight, as they came."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    @contextmanager
    def request(self, size: int) -> Iterator[None]:
        """Room for a request of so many bytes while the block runs. One that is alone always has it, and one of none.

        Raises Overloaded.
        """
        if size and self.held and self.held + size > self.most:
            message = f"the requests in flight hold {self.held} bytes, {size} more would pass the limit of {self.most}"
            raise Overloaded(message, "TOO_MANY_BYTES")
        self.held += size
        try:
            yield
        finally:
            self.held -= size
