"""What libraries say to programmers does not reach whoever runs a command: warnings, logs, the C core of gRPC.

Our own warnings do, in one plain line. Python's -W and PYTHONWARNINGS bring back those of libraries, GRPC_VERBOSITY the
log of gRPC. For a process of ours, never for a program that imports moesaic. No torch.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

_OURS = __name__.partition(".")[0]


def quiet_libraries(say: Callable[[str], None]) -> None:
    """Silences libraries; `say` gets each warning of ours. Call it before gRPC is imported, which reads it then."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if category.__module__.partition(".")[0] == _OURS:
            say(str(message))
        elif sys.warnoptions:
            sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show
    logging.lastResort = logging.NullHandler()  # where what nobody asked for would go
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
