"""Files that a person names: keys, certificates, tokens."""

import os
import stat
from pathlib import Path

from ..models.errors import SetupError


def read_private(file: Path, name: str, most_bytes: int) -> bytes:
    """What a file holds that others of this machine may neither read nor change. Raises SetupError.

    name: of the setting that says which file.
    """
    return _read(file, name, most_bytes, is_private=True)


def read_public(file: Path, name: str, most_bytes: int) -> bytes:
    """The same of one that others may read."""
    return _read(file, name, most_bytes, is_private=False)


def _read(file: Path, name: str, most_bytes: int, is_private: bool) -> bytes:
    try:
        # Without waiting: a pipe would keep whoever opens it for as long as nobody writes.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check_mode(file, name, os.fstat(descriptor).st_mode, is_private)
            with open(descriptor, "rb", closefd=False) as opened:
                data = opened.read(most_bytes + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SetupError(f"{name}: {file} cannot be read: {error.strerror or error}") from None
    if len(data) > most_bytes:
        raise SetupError(f"{name}: {file} is longer than {most_bytes:,} bytes, which no such file is")
    return data


def _check_mode(file: Path, name: str, mode: int, is_private: bool) -> None:
    if not stat.S_ISREG(mode):
        raise SetupError(f"{name}: {file} is no file; name a file")
    if is_private and mode & (stat.S_IRWXO | stat.S_IWGRP):
        shown = stat.S_IMODE(mode)
        raise SetupError(f"{name}: others may read or change {file} (mode {shown:o}); run: chmod 600 {file}")
