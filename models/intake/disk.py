"""A disk that is full or fails, said before the work where possible and in one sentence where not."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import CheckpointError


def require_space(folder: Path, num_bytes: int) -> None:
    """Raises CheckpointError where the disk of `folder`, which exists, has less free than this."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CheckpointError(
            f"{num_bytes / 1e6:,.0f} MB are needed on the disk of {folder}, {free / 1e6:,.0f} MB are free; make room"
        )


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns what a failing disk raises inside the block into a CheckpointError that names `out`."""
    try:
        yield
    except SafetensorError as error:  # the library wraps the system's error in its own
        raise CheckpointError(f"{out} cannot be written: {error}; nothing was kept") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        raise CheckpointError(f"{out} cannot be written: {error.strerror}; nothing was kept") from None
