"""Lines on their way to a log that may block, or be gone: a thread writes them, and nobody waits for it."""

import logging
import os
from collections import deque
from threading import Condition, Thread

from .masking import masked

MOST_LINES = 4096


class LogQueue:
    """A bounded queue in front of a file descriptor, which it closes. Tokens are masked, whoever wrote the line.

    What finds no room or cannot be written is counted, and the count is written as soon as something can be again.
    """

    def __init__(self, descriptor: int, most_lines: int = MOST_LINES) -> None:
        self._descriptor, self._most = descriptor, most_lines
        self._lines: deque[str] = deque()
        self._changed = Condition()
        self._num_dropped = 0
        self._is_closed = False
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Takes in one line, or several as one. Never waits for the reader and never raises."""
        with self._changed:
            if len(self._lines) < self._most:
                self._lines.append(line)
                self._changed.notify()
            else:
                self._num_dropped += 1

    def close(self, seconds: float) -> None:
        """Lets what is queued be written, for so long at most."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._next()) is not None:
            if self._write(masked(line) + "\n"):
                self._tell_dropped()
        os.close(self._descriptor)

    def _next(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_closed)
            return self._lines.popleft() if self._lines else None

    def _tell_dropped(self) -> None:
        with self._changed:
            count, self._num_dropped = self._num_dropped, 0
        if count and not self._write(f"moesaic: {count} lines were dropped while the log could not be written\n"):
            with self._changed:
                self._num_dropped += count - 1  # _write has counted its own

    def _write(self, text: str) -> bool:
        """Whether all of it was written."""
        data = text.encode(errors="backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            return True
        except OSError:  # nobody reads any more, or the disk is full
            with self._changed:
                self._num_dropped += 1
            return False


class QueueHandler(logging.Handler):
    """Hands records to a LogQueue, formatted."""

    def __init__(self, queue: LogQueue, formatter: logging.Formatter) -> None:
        super().__init__()
        self._queue = queue
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Queues one record."""
        try:
            self._queue.put(self.format(record))
        except Exception:  # a record that cannot be formatted must not fail what it speaks of
            self.handleError(record)
