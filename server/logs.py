"""Where a server's log goes while it runs: all of it through one queue, standard error included."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from .log_lines import LineCutter, LineFormatter
from .log_queue import LogQueue, QueueHandler
from .request_log import requests_log

FLUSH_SECONDS = 1.0  # at the end
_READ_BYTES = 1 << 16
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_log = logging.getLogger("moesaic.native")


@contextmanager
def logs() -> Iterator[None]:
    """Meanwhile nobody who logs waits for the reader of standard error, and what libraries write there is escaped."""
    sys.stderr.flush()
    descriptor = os.dup(2)
    queue = LogQueue(descriptor)
    try:
        with _handled_by(queue), _captured_errors():
            yield
    finally:
        queue.close(FLUSH_SECONDS)


@contextmanager
def _handled_by(queue: LogQueue) -> Iterator[None]:
    lines, plain = QueueHandler(queue, LineFormatter(_FORMAT)), QueueHandler(queue, logging.Formatter())
    logging.getLogger().addHandler(lines)
    requests_log.addHandler(plain)
    requests_log.setLevel(logging.INFO)
    requests_log.propagate = False
    try:
        yield
    finally:
        logging.getLogger().removeHandler(lines)
        requests_log.removeHandler(plain)


@contextmanager
def _captured_errors() -> Iterator[None]:
    """Standard error is a pipe meanwhile, of which every line is logged."""
    before = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    thread = Thread(target=_log_lines, args=(reader,), name="standard error", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(before, 2)  # closes the last writing end, unless a child still has it
        os.close(before)
        thread.join(FLUSH_SECONDS)


def _log_lines(reader: int) -> None:
    lines = LineCutter()
    while data := os.read(reader, _READ_BYTES):
        for line in lines.feed(data):
            _log.warning("%s", line)
    for line in lines.rest():
        _log.warning("%s", line)
    os.close(reader)
