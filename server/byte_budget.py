"""How many bytes of requests a server holds at a time, and whose they are."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ..models.errors import Overloaded


class ByteBudget:
    """Counts the bytes of the requests in flight, as they came.

    Once it is full, who holds less than an equal share is let in still, so that nobody fills it for others; twice the
    budget is never passed.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self._held = Counter[str]()  # by caller

    @contextmanager
    def request(self, caller: str, size: int) -> Iterator[None]:
        """Room for a request of so many bytes while the block runs. One that is alone always has it, and one of none.

        Raises Overloaded.
        """
        if size and self.held and self.held + size > self.most and not self._is_owed(caller, size):
            message = f"the requests in flight hold {self.held} bytes, {size} more would pass the limit of {self.most}"
            raise Overloaded(message, "TOO_MANY_BYTES")
        self._count(caller, size)
        try:
            yield
        finally:
            self._count(caller, -size)

    def _is_owed(self, caller: str, size: int) -> bool:
        share = self.most // len({*self._held, caller})
        return self._held[caller] + size <= share and self.held + size <= 2 * self.most

    def _count(self, caller: str, size: int) -> None:
        self.held += size
        self._held[caller] += size
        if not self._held[caller]:
            del self._held[caller]
