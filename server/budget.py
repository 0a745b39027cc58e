"""So much a minute."""

import time
from collections.abc import Callable

_SECONDS = 60.0


class Budget:
    """What a caller may spend: a minute's worth at once, then as it comes. Who owes waits until it is paid."""

    def __init__(self, per_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._now = now
        self._left = float(per_minute)
        self._since = now()

    def wait(self) -> float:
        """Seconds until there is one to spend; 0 where there is."""
        self._fill()
        return max(0.0, 1.0 - self._left) * _SECONDS / self.per_minute

    def spend(self, amount: int) -> None:
        """Takes it away, also where there is not as much."""
        self._fill()
        self._left -= amount

    def _fill(self) -> None:
        now = self._now()
        self._left = min(float(self.per_minute), self._left + (now - self._since) * self.per_minute / _SECONDS)
        self._since = now
