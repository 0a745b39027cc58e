"""Who is next among those that wait: by priority, and within one in turn by caller. No torch."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from .request import Priority, Request

_QUANTUM_TOKENS = 32


class Waiting(Protocol):
    """What may wait: a request, in the engine or before it."""

    @property
    def request(self) -> Request: ...
    @property
    def num_prompt(self) -> int: ...


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True)
class _Line(Generic[W]):
    """The requests of one caller, first come first served, and the tokens it may still start in its turn."""

    waiting: deque[W] = field(default_factory=deque)
    credit: int = 0


class FairQueue(Generic[W]):
    """Deficit round robin over callers (Shreedhar and Varghese, 1996), a request costing the tokens it may take.

    A higher priority goes first whatever it costs. What was preempted goes before all others of its priority.
    """

    def __init__(self) -> None:
        self._resumed: dict[Priority, deque[W]] = {priority: deque() for priority in Priority}
        self._lines: dict[Priority, dict[str, _Line[W]]] = {priority: {} for priority in Priority}

    def __len__(self) -> int:
        lines = (line.waiting for lines in self._lines.values() for line in lines.values())
        return sum(map(len, (*self._resumed.values(), *lines)))

    def __iter__(self) -> Iterator[W]:
        for priority in Priority:
            yield from self._resumed[priority]
            for line in self._lines[priority].values():
                yield from line.waiting

    def push(self, sequence: W) -> None:
        """Puts a new one behind those of its caller."""
        lines = self._lines[sequence.request.priority]
        lines.setdefault(sequence.request.caller, _Line()).waiting.append(sequence)

    def push_front(self, sequence: W) -> None:
        """Puts back one that has run already, or could not yet."""
        self._resumed[sequence.request.priority].appendleft(sequence)

    def pop(self) -> W | None:
        """The next one; None where nobody waits."""
        for priority in Priority:
            if self._resumed[priority]:
                return self._resumed[priority].popleft()
            if self._lines[priority]:
                return self._in_turn(self._lines[priority])
        return None

    def remove(self, unwanted: Callable[[W], bool]) -> list[W]:
        """Takes out those of whom this holds."""
        found = [sequence for sequence in self if unwanted(sequence)]
        if not found:
            return found
        for priority in Priority:
            self._resumed[priority] = deque(each for each in self._resumed[priority] if each not in found)
            for line in self._lines[priority].values():
                line.waiting = deque(each for each in line.waiting if each not in found)
            self._lines[priority] = {caller: line for caller, line in self._lines[priority].items() if line.waiting}
        return found

    @staticmethod
    def _in_turn(lines: dict[str, _Line[W]]) -> W:
        """The first line whose credit pays for its first request; each that it does not gets more and goes behind."""
        while True:
            caller, line = next(iter(lines.items()))
            cost = line.waiting[0].num_prompt + line.waiting[0].request.stopping.max_new_tokens
            if len(lines) == 1 or line.credit >= cost:
                line.credit = max(0, line.credit - cost)
                sequence = line.waiting.popleft()
                if not line.waiting:
                    del lines[caller]
                return sequence
            line.credit += _QUANTUM_TOKENS
            lines[caller] = lines.pop(caller)
