"""Whose turn it is when a place becomes free, and when that will be."""

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_UNKNOWN_SECONDS = 1.0  # told while no place has become free yet
_LEAST_SECONDS, _MOST_SECONDS = 0.02, 60.0  # that a caller is told to wait
_LATE_SECONDS = 2.0  # that a turn is kept for a caller who does not come
_MOST_CALLERS = 10_000  # in the line; those beyond it come whenever they like


@dataclass(slots=True)
class _Turn:
    number: int
    due: float = 0.0  # when the caller was told to come


class Turns:
    """The line of callers that were refused, the longest refused first.

    Each is told when to come again: when so many places will have become free as callers are before it, at the pace at
    which they do, and up to a fifth earlier, so that not all come at once and no place waits for its caller.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._turns: dict[str, _Turn] = {}  # in the order of the line
        self._numbers: list[int] = []  # theirs
        self._next_number = 0
        self._freed: deque[float] = deque(maxlen=64)  # when places became free

    def freed(self) -> None:
        """Notes that a place became free."""
        self._freed.append(self._now())

    def calm(self) -> None:
        """Notes that nobody has to wait: the pace of before says nothing of the next time that it is full."""
        self._freed.clear()

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
            if self._turns[caller].due > self._now() - _LATE_SECONDS:
                return
            self.leave(caller)

    def _seconds(self, places: int) -> float:
        """Until so many places will have become free; a pause since the last one counts."""
        if not self._freed:
            return _UNKNOWN_SECONDS
        return places * (self._now() - self._freed[0]) / len(self._freed)
