"""Waiting for what must happen: the bound only ends a test that hangs, however busy the machine is."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_SECONDS = 180.0


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until it holds; fails when it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


class FakeClock:
    """Stands in for the module `time`: sleeping alone moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def written(file: Path) -> str:
    """What another process writes into a file, once something is there."""
    eventually(lambda: file.exists() and file.stat().st_size > 0)
    return file.read_text()


@contextmanager
def stopped(process_id: int) -> Iterator[None]:
    """Meanwhile the process does nothing, unless somebody kills it."""
    os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGCONT)


def alive(process_id: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
