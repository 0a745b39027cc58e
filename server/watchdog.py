"""When an engine process is given up: it is silent, it hangs in a step or in loading, or it spins."""

from collections import deque
from dataclasses import dataclass

from ..proto import engine_pb2 as pb

TICK_SECONDS = 0.5
BEAT_SECONDS = 0.5  # between the beats of a process that runs
_BUSY_SHARE = 0.02  # of one processor; what computes takes more


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds an engine process may do what.

    load: from its start until it serves. silent: say nothing at all; its beats come from a thread of their own.
    silent_load: the same while it loads, when imports keep that thread waiting. hang: owe an answer, end no step and
    compute nothing. step: owe an answer and end no step.
    """

    load: float = 1800.0
    silent: float = 5.0
    silent_load: float = 60.0
    hang: float = 8.0
    step: float = 120.0


class Watchdog:
    """Told of all that a process says, and asked once a tick.

    Time is counted in ticks of its own, so that a front end that was stopped itself accuses nobody when it goes on.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._age = self._silent = self._still = 0.0  # seconds: since the start, the last word, the last progress
        self._cpu_seconds = 0.0
        self._used: deque[float] = deque([0.0], maxlen=1 + round(patience.hang / TICK_SECONDS))

    def heard(self, event: pb.Event) -> None:
        """The process said something."""
        self._silent = 0.0
        if event.HasField("beat"):
            self._cpu_seconds = event.beat.cpu_seconds
        else:
            self._still = 0.0

    def tick(self, loads: bool, owes: bool) -> str | None:
        """What is wrong, as the end of a sentence; None while nothing is. owes: whether an answer is waited for."""
        patience = self._patience
        self._age += TICK_SECONDS
        self._silent += TICK_SECONDS
        self._still = self._still + TICK_SECONDS if owes else 0.0
        self._used.append(self._cpu_seconds)
        if loads and self._age > patience.load:
            return f"has not loaded within {patience.load:g} s"
        if self._silent > (patience.silent_load if loads else patience.silent):
            return f"has been silent for {self._silent:g} s"
        if self._still > patience.hang and self._used[-1] - self._used[0] < _BUSY_SHARE * patience.hang:
            return f"hangs: no step has ended for {self._still:g} s, and it computes nothing"
        if self._still > patience.step:
            return f"hangs: no step has ended for {self._still:g} s"
        return None
