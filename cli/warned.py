"""Warnings as the person at the terminal may need them: ours. Those of libraries speak to programmers."""

import sys
import warnings
from typing import TextIO

from .terminal import say_warning

_OURS = __name__.partition(".")[0]


def show_own_warnings() -> None:
    """From now on ours are one plain line, and those of libraries are shown to who asks with -W or PYTHONWARNINGS."""
    warnings.showwarning = _show


def _show(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    if category.__module__.partition(".")[0] == _OURS:
        say_warning(str(message))
    elif sys.warnoptions:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
