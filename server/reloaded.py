"""What is made of files, made anew when they change. A change that is wrong is said, and what was made before stays."""

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
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


async def keep_looking(reloaded: Sequence[Looking]) -> None:
    """Looks until it is cancelled. In a thread: a disk may be slow."""
    while reloaded:
        await asyncio.sleep(LOOK_SECONDS)
        for each in reloaded:
            await asyncio.to_thread(each.look)


def read_private(file: Path, name: str, most_bytes: int) -> bytes:
    """What a file holds that others of this machine may neither read nor change. Raises SetupError."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            _check_mode(file, name, mode)
            data = opened.read(most_bytes + 1)
    except OSError as error:
        raise SetupError(f"{name}: {file} cannot be read: {error.strerror or error}") from None
    if len(data) > most_bytes:
        raise SetupError(f"{name}: {file} is longer than {most_bytes:,} bytes, which no such file is")
    return data


def _check_mode(file: Path, name: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise SetupError(f"{name}: {file} is no file; name a file")
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        shown = stat.S_IMODE(mode)
        raise SetupError(f"{name}: others may read or change {file} (mode {shown:o}); run: chmod 600 {file}")


def _state(file: Path) -> tuple[int, int, int, int]:
    """What differs when a file is another, also one that is older than the one before."""
    try:
        found = file.stat()
    except OSError:
        return _ABSENT
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
