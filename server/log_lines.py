"""Bytes and texts of others as lines of a log: no control character passes, and none of them begins a line."""

import logging
import re

MOST_CHARACTERS = 4096  # of a line
CONTINUED = "  | "
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text with control characters, line ends and what turns the reading direction written as escapes."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\n", "\\n"))


class LineCutter:
    """Whole lines out of bytes as they arrive; one without an end is cut."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *lines, self._data = (self._data + data).split(b"\n")
        if len(self._data) > MOST_CHARACTERS:
            lines, self._data = [*lines, self._data], b""
        return [_line(line) for line in lines if line.strip()]

    def rest(self) -> list[str]:
        """What has no end yet."""
        rest, self._data = self._data, b""
        return [_line(rest)] if rest.strip() else []


class LineFormatter(logging.Formatter):
    """A record and its traceback. Every line but the first is marked, so that no text in it passes for a record."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of one record."""
        first, *others = super().format(record).split("\n")
        return "\n".join([visible(first), *(CONTINUED + visible(line) for line in others)])


def _line(data: bytes) -> str:
    text = visible(data.decode(errors="backslashreplace").rstrip())
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " ..."
