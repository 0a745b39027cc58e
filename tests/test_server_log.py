"""The log of a server: nobody waits for its reader, and no text passes for one of its lines."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from echo_engine import FORGED, PRINT
from patience import eventually
from server_harness import Server

from moesaic.server.log_lines import CONTINUED, MOST_CHARACTERS, LineCutter, LineFormatter, visible
from moesaic.server.log_queue import LogQueue
from moesaic.server.logs import logs


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends, which are closed in the end where they are not yet."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with suppress(OSError):
                os.close(end)


def read_all(descriptor: int) -> str:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read().decode()


def test_a_log_that_nobody_reads_delays_no_answer_and_no_end() -> None:
    with pipe() as (_, writer), Server(log_requests=True, stderr=writer) as server, server.client() as client:
        for i in range(400):  # more lines than a pipe holds
            assert client.generate([5], max_new_tokens=1, request_id=f"{i:060}").token_ids == (5,)
        assert client.health() == "SERVING"
        server.send(signal.SIGTERM)
        assert server.end() == 0


def test_a_log_whose_reader_is_gone_turns_no_answer_into_an_error() -> None:
    with pipe() as (reader, writer), Server(log_requests=True, stderr=writer) as server, server.client() as client:
        os.close(reader)
        for _ in range(5):
            assert client.generate([5], max_new_tokens=1).token_ids == (5,)
        server.send(signal.SIGTERM)
        assert server.end() == 0


def test_what_an_engine_prints_cannot_pass_for_a_line_of_the_server() -> None:
    with Server() as server, server.client() as client:
        client.generate([PRINT], max_new_tokens=5)
        eventually(lambda: "forged" in server.log)
        (line,) = (line for line in server.log.splitlines() if "forged" in line)
        assert f"WARNING moesaic.engine: echo: {visible(FORGED)}" in line and "\x1b" not in line


def test_what_finds_no_room_is_counted_and_told_when_somebody_reads_again() -> None:
    with pipe() as (reader, writer):
        queue = LogQueue(os.dup(writer), most_lines=10)
        os.close(writer)
        for _ in range(1000):
            queue.put("x" * 1000)  # a pipe holds 64 of them
        queue.close(0)
        lines = read_all(reader).splitlines()
    told = [line for line in lines if "dropped" in line]
    dropped = sum(int(line.split()[1]) for line in told)
    assert told and dropped + len(lines) - len(told) == 1000


def test_lines_to_a_pipe_without_a_reader_are_dropped_and_end_nothing() -> None:
    with pipe() as (reader, writer):
        os.close(reader)
        queue = LogQueue(os.dup(writer))
        for _ in range(100):
            queue.put("x")
        queue.close(10)
        assert not queue._thread.is_alive()


def test_all_that_is_logged_or_written_to_standard_error_is_one_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("test")
    with logs():
        log.error("first\n2026-01-01 00:00:00,000 ERROR moesaic: forged")
        os.write(2, b"from C\x1b[31m\r\nand more")
        logging.getLogger("moesaic.requests").info('{"request_id": "a"}')
    sys.stderr.write("as before\n")
    error = capfd.readouterr().err
    assert "ERROR test: first\n" + CONTINUED + "2026" in error
    assert "WARNING moesaic.native: from C\\x1b[31m\n" in error and "native: and more\n" in error
    assert '\n{"request_id": "a"}\n' in "\n" + error and error.endswith("as before\n")


def test_a_traceback_is_marked_line_by_line() -> None:
    try:
        raise ValueError("a\n2026 forged")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "message", (), sys.exc_info())
    first, *others = LineFormatter("%(message)s").format(record).split("\n")
    assert first == "message" and len(others) > 3 and all(line.startswith(CONTINUED) for line in others)


def test_lines_are_cut_where_they_end_and_where_they_do_not() -> None:
    lines = LineCutter()
    assert lines.feed(b"one\ntw") == ["one"] and lines.feed(b"o\n\n \nthree") == ["two"]
    assert lines.rest() == ["three"] and lines.rest() == []
    (cut,) = lines.feed(b"x" * (MOST_CHARACTERS + 1))
    assert len(cut) == MOST_CHARACTERS + 4


@pytest.mark.parametrize("text", ["a\rb", "a\x1b[2Jb", "a\x00b", "a\x85b", "a\u2028b", "a\u202eb", "a\nb"])
def test_no_control_character_is_visible_as_itself(text: str) -> None:
    assert visible(text).isprintable() and visible(text)[0] == "a" and visible(text)[-1] == "b"
