"""Writes to callers who may not read: one timer for all of them, which is cheaper than one for each message."""

import asyncio
import time
from types import TracebackType

from ..models.errors import Unread


class Writes:
    """Those that are under way at one door, the oldest first, and how long each may take."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began: dict[Write, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, write: "Write") -> None:
        """Looks at this one when its time is over."""
        self._began[write] = time.monotonic()
        if self._timer is None:
            self._wait(self.seconds)

    def end(self, write: "Write") -> None:
        """Looks at it no more."""
        self._began.pop(write, None)

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer, now = None, time.monotonic()
        for write, began in list(self._began.items()):
            if (left := began + self.seconds - now) > 0:
                self._wait(left)
                return
            self.end(write)
            write.cancel()


class Write:
    """One task's, one after the other; `with` it what must not take longer. Raises Unread."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._is_late = False

    def cancel(self) -> None:
        """Ends what is under way."""
        if self._task is not None:
            self._is_late = True
            self._task.cancel()

    def __enter__(self) -> None:
        if self._task is None:
            self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._writes.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writes.end(self)
        if not self._is_late or self._task is None:
            return
        self._is_late = False
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            seconds = self._writes.seconds
            raise Unread(f"nothing of the answer was read for {seconds:g} s (--write-seconds)") from None
