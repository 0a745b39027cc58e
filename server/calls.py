"""How many calls are under way, and whose they are."""

from collections import Counter

import grpc

from ..models.errors import Overloaded
from .caller import caller_of


class Calls:
    """Room for calls. Once it is full, who holds less than an equal share is let in still, so that nobody fills it."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._total = 0
        self._held = Counter[str]()

    def enter(self, context: grpc.aio.ServicerContext) -> None:
        """Counts a call until it is over, whoever ends it. Raises Overloaded for a caller of too many."""
        caller = caller_of(context)
        held = self._held[caller]
        if self._total >= self._room and held >= max(1, self._room // len(self._held)):
            text = f"{held} calls of this caller are under way, and there is no room for more of them"
            raise Overloaded(text, "TOO_MANY_CALLS")
        self._held[caller] += 1
        self._total += 1
        context.add_done_callback(lambda _: self._leave(caller))

    def _leave(self, caller: str) -> None:
        self._total -= 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
