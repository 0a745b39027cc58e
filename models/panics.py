"""Panics of libraries that are written in Rust: no `except Exception` catches one. Imports no library."""

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import CheckpointError

_MODULE = "pyo3_runtime"  # of the class, which can be imported from nowhere
_MOST = 200


@contextmanager
def panics_refused(what: str) -> Iterator[None]:
    """Turns a panic inside the block into a CheckpointError, which says that `what` cannot be read."""
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != _MODULE:
            raise
        said = " ".join(str(error).split())[:_MOST]
        raise CheckpointError(f"{what} cannot be read as a tokenizer: {said}; copy it again") from None
