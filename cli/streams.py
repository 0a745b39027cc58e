"""Standard streams that outlast whoever gave them: a reader that leaves, or nobody at all, does not fail the work."""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def keep_streams() -> None:
    """Opens what is closed of stdin, stdout and stderr on nothing, and lets the readers of the others leave.

    Before any other file is opened: one that took the number of a closed stream would be written by whoever prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    sys.stdin = sys.stdin or open(0, closefd=False)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _kept(sys.stdout, 1, "replace")  # a model may say what a terminal cannot show
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _kept(sys.stderr, 2, "backslashreplace")


def drop_output() -> None:
    """What is still to be said on stdout is not: it could not be written, which was said."""
    if isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stdout.buffer, io.BufferedWriter):
        _point_at_nothing(sys.stdout.fileno())


class _Output(io.FileIO):
    """A descriptor that is pointed at nothing once its reader is gone."""

    def write(self, data: "ReadableBuffer", /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            _point_at_nothing(self.fileno())
            return super().write(data)


def _kept(stream: TextIO | None, number: int, errors: str) -> TextIO:
    if stream is not None:
        stream.flush()
    is_terminal = os.isatty(number)
    output = io.BufferedWriter(_Output(number, "w", closefd=False))
    encoding = stream.encoding if stream is not None else "utf-8"
    lines = is_terminal or number == 2
    return io.TextIOWrapper(output, encoding, errors, line_buffering=lines, write_through=number == 2)


def _point_at_nothing(number: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
