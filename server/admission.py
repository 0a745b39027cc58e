"""How much work a model takes on. Only this refuses for lack of room, and it does so before any header is sent."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from ..models.errors import Overloaded
from .running import Running
from .turns import Turns


class Place:
    """The room of one request: taken until the engine is done with it, whenever its caller reads the answer."""

    def __init__(self, caller: str, since: float) -> None:
        self.caller = caller
        self.since = since
        self.num_prompt_tokens = 0
        self.was_in_engine = False


class Admission:
    """The places of one model. While half of them are taken, callers that were refused have their turn first."""

    def __init__(self, max_requests: int, now: Callable[[], float] = time.monotonic) -> None:
        self.max_requests = max_requests
        self._places: set[Place] = set()
        self._now = now
        self._turns = Turns(max_requests, now)

    @property
    def num_requests(self) -> int:
        """Requests that the engine is not done with."""
        return len(self._places)

    @property
    def num_prompt_tokens(self) -> int:
        """The tokens of their prompts."""
        return sum(place.num_prompt_tokens for place in self._places)

    @contextmanager
    def place(self, caller: str) -> Iterator[Place]:
        """Room for one request while the block runs. Raises Overloaded when there is none for this caller."""
        self.check(caller)
        place = Place(caller, self._now())
        self._places.add(place)
        try:
            yield place
        finally:
            self._leave(place)

    def check(self, caller: str) -> None:
        """Raises Overloaded when there is no room for this caller now."""
        if self.num_requests >= max(1, self.max_requests // 2) and not self._turns.has(caller, self._free):
            held = f"{self.num_requests} requests are in flight of at most {self.max_requests}"
            raise self._refusal(caller, f"{held}, and the next places are for those who were refused before")

    def follow(self, place: Place, running: Running) -> None:
        """Has a place until the engine is done with this request."""
        place.was_in_engine = True
        running.when_ended = partial(self._leave, place)

    def hold_prompt(self, place: Place, num_tokens: int, max_tokens: int) -> None:
        """Counts the tokens of a prompt. Raises Overloaded for too many at a time; one that is alone always fits, and
        so does none.
        """
        held = self.num_prompt_tokens
        if num_tokens and held and held + num_tokens > max_tokens:
            why = f"the prompts in flight hold {held} tokens, {num_tokens} more would pass the limit of {max_tokens}"
            raise self._refusal(place.caller, why)
        place.num_prompt_tokens = num_tokens
        self._turns.leave(place.caller)

    def gone(self, caller: str) -> None:
        """Takes a caller that cannot come back out of the line."""
        self._turns.leave(caller)

    @property
    def _free(self) -> int:
        return self.max_requests - self.num_requests

    def _refusal(self, caller: str, why: str) -> Overloaded:
        return Overloaded(why, "QUEUE_FULL", self._turns.wait(caller, self._free))

    def _leave(self, place: Place) -> None:
        if place in self._places:
            self._places.remove(place)
            if place.was_in_engine:  # what never reached the engine says nothing of its pace
                self._turns.freed(self._now() - place.since)
