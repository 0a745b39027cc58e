"""Whose turn it is when a place becomes free, and when that will be."""

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

_UNKNOWN_SECONDS = 1.0  # told while nobody has left a place yet
_LEAST_SECONDS, _MOST_SECONDS = 0.02, 60.0  # that a caller is told to wait
LATE_SECONDS = 1.0  # that a turn is kept for a caller who does not come
_WEIGHT = 0.1  # of the newest time that a place was held
_MOST_CALLERS = 10_000  # in the line; those beyond it come whenever they like


@dataclass(slots=True)
class _Turn:
    number: int
    due: float = 0.0  # when the caller was told to come


class Turns:
    """The line of callers that were refused, the longest refused first.

    Each is told when to come again: when so many places will have become free as callers are before it, by how long
    places are held, and up to a fifth earlier: not all come at once, and no place waits long for its caller.
    """

    def __init__(self, num_places: int, now: Callable[[], float]) -> None:
        self._num_places = num_places
        self._now = now
        self._turns: dict[str, _Turn] = {}  # in the order of the line
        self._numbers: list[int] = []  # theirs
        self._next_number = 0
        self._held_seconds: float | None = None  # one place by one caller, as a mean that forgets

    def freed(self, held_seconds: float) -> None:
        """Notes that a place became free, and for how long it had been held."""
        known = self._held_seconds
        self._held_seconds = held_seconds if known is None else known + _WEIGHT * (held_seconds - known)

    def has(self, caller: str, free: int) -> bool:
        """Whether one of so many free places is this caller's, as each caller before it has one too."""
        self._forget_who_is_late()
        return self._before(caller) < free

    def wait(self, caller: str, free: int) -> float:
        """In how many seconds to come again. A caller that is new is the last in the line."""
        seconds = self._seconds(max(1, self._before(caller) - free + 1)) * random.uniform(0.8, 1.0)
        seconds = min(_MOST_SECONDS, max(_LEAST_SECONDS, seconds))
        if caller not in self._turns and len(self._turns) < _MOST_CALLERS:
            self._turns[caller] = _Turn(self._next_number)
            self._numbers.append(self._next_number)
            self._next_number += 1
        if caller in self._turns:
            self._turns[caller].due = self._now() + seconds
        return seconds

    def leave(self, caller: str) -> None:
        """Takes a caller out of the line, if it is in it."""
        if caller in self._turns:
            del self._numbers[bisect_left(self._numbers, self._turns.pop(caller).number)]

    def _before(self, caller: str) -> int:
        """How many callers are before this one."""
        turn = self._turns.get(caller)
        return len(self._numbers) if turn is None else bisect_left(self._numbers, turn.number)

    def _forget_who_is_late(self) -> None:
        while self._turns:
            caller = next(iter(self._turns))
            if self._turns[caller].due > self._now() - LATE_SECONDS:
                return
            self.leave(caller)

    def _seconds(self, places: int) -> float:
        """Until so many places will have become free."""
        if self._held_seconds is None:
            return _UNKNOWN_SECONDS
        return places * self._held_seconds / self._num_places
