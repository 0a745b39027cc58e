"""Whose turn it is when a place becomes free, and when that will be."""

import random
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass

_UNKNOWN_SECONDS = 1.0  # told while nobody has left a place yet
_LEAST_SECONDS, _MOST_SECONDS = 0.02, 60.0  # that a caller is told to wait
LATE_SECONDS = 2.0  # that a turn is kept for a caller who does not come
_WEIGHT = 0.1  # of the newest time that a place was held
_MOST_CALLERS = 10_000  # in the line; those beyond it come whenever they like


_Standing = tuple[float, int]  # in the line: a round, and a number within it


@dataclass(slots=True)
class _Turn:
    standing: _Standing
    due: float = 0.0  # when the caller was told to come


class Turns:
    """The line of callers that were refused, the longest refused first, and one of each address in a round.

    Each is told when to come again: when so many places will have become free as callers are before it, by how long
    places are held, and up to a fifth earlier: not all come at once, and no place waits long for its caller. Who has no
    name is its connection, so that many connections of one address would else have as many turns.
    """

    def __init__(self, num_places: int, now: Callable[[], float]) -> None:
        self._num_places = num_places
        self._now = now
        self._turns: dict[str, _Turn] = {}
        self._line: list[tuple[_Standing, str]] = []  # of them, sorted
        self._rounds: dict[str, tuple[float, int]] = {}  # of an address the last round it is in, and how often it waits
        self._round = 0.0  # in which the line is; whoever comes now begins there
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
            self._enter(caller)
        if caller in self._turns:
            self._turns[caller].due = self._now() + seconds
        return seconds

    def leave(self, caller: str) -> None:
        """Takes a caller out of the line, if it is in it."""
        if caller not in self._turns:
            return
        standing, address = self._turns.pop(caller).standing, address_of(caller)
        del self._line[bisect_left(self._line, (standing, caller))]
        self._round += 1 / len(self._rounds)
        last, waiting = self._rounds.pop(address)
        if waiting > 1:
            self._rounds[address] = last, waiting - 1

    def _enter(self, caller: str) -> None:
        standing, address = self._standing_of_new(caller), address_of(caller)
        self._next_number += 1
        self._turns[caller] = _Turn(standing)
        insort(self._line, (standing, caller))
        self._rounds[address] = standing[0], self._rounds.get(address, (0.0, 0))[1] + 1

    def _standing_of_new(self, caller: str) -> _Standing:
        """Behind all that wait of its address, and behind nobody who waits more often than it would."""
        last = self._rounds.get(address_of(caller))
        return (self._round if last is None else max(self._round, last[0] + 1)), self._next_number

    def _before(self, caller: str) -> int:
        """How many callers are before this one."""
        turn = self._turns.get(caller)
        return bisect_left(self._line, (self._standing_of_new(caller) if turn is None else turn.standing, caller))

    def _forget_who_is_late(self) -> None:
        while self._line:
            caller = self._line[0][1]
            if self._turns[caller].due > self._now() - LATE_SECONDS:
                return
            self.leave(caller)

    def _seconds(self, places: int) -> float:
        """Until so many places will have become free."""
        if self._held_seconds is None:
            return _UNKNOWN_SECONDS
        return places * self._held_seconds / self._num_places


def address_of(caller: str) -> str:
    """Of a connection, which is a kind, an address and a port, all but the port; another name is its own."""
    address, _, port = caller.rpartition(":")
    return address if ":" in address and port.isdecimal() else caller
