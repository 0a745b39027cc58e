"""What is made of files, made anew when they change. A change that is wrong is said, and what was made before stays."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Generic, Protocol, TypeVar

from ..models.errors import SetupError

LOOK_SECONDS = 1.0
_ABSENT = (0, 0, 0, 0)

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Looking(Protocol):
    """What looks whether its files have changed."""

    def look(self) -> None:
        """Takes what has changed, or says why not."""


class Reloaded(Generic[T]):
    """`current` is what `make` made of files that were right. Raises SetupError when the first ones are not."""

    def __init__(self, name: str, files: Sequence[Path], make: Callable[[], T]) -> None:
        self._name, self._files, self._make = name, files, make
        self._seen = [_state(file) for file in files]
        self.current = make()

    def look(self) -> None:
        """Raises nothing: what is wrong goes to the log, once for each change."""
        seen = [_state(file) for file in self._files]
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.current = self._make()
            _log.warning("%s: read anew", self._name)
        except SetupError as error:
            _log.error("%s: what was read before stays in force: %s", self._name, error)
        except Exception:  # such as a disk that fails: nobody would look again
            _log.exception("%s: what was read before stays in force", self._name)


def look_after(reloaded: Sequence[Looking]) -> Callable[[], None]:
    """Looks again and again in a thread, which a disk that hangs keeps and nobody waits for; gives what ends it."""
    ended = Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            for each in reloaded:
                each.look()

    Thread(target=look, name="files", daemon=True).start()
    return ended.set


def _state(file: Path) -> tuple[int, int, int, int]:
    """What differs when a file is another, also one that is older than the one before."""
    try:
        found = file.stat()
    except OSError:
        return _ABSENT
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
