"""What a person sees on a terminal, and that a pipe, a file and TERM=dumb get the same as plain text."""

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Self

import pytest

from moesaic.cli import terminal
from moesaic.cli.main import main
from moesaic.cli.terminal import (
    ProgressLine,
    WaitingLine,
    plain_table,
    print_table,
    say,
    say_error,
    say_warning,
)

HEAD, ROWS = ["", "size of all"], [["first", "1"], ["b", "12,345"]]
PLAIN = "       size of all\n-----  -----------\nfirst            1\nb           12,345\n"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
RED, YELLOW = "\x1b[1;31m", "\x1b[33m"


class Screen:
    """A terminal of 80 columns, which is stdout and stderr within the `with` block."""

    def __init__(self) -> None:
        self.written = ""

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self._stream = os.fdopen(theirs, "w", buffering=1)
        self._before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self._stream
        self._reader = threading.Thread(target=self._read)  # a terminal holds a few KB that nobody reads
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._before
        self._stream.write("\0")
        self._stream.flush()
        self._reader.join()
        self._stream.close()
        os.close(self._ours)

    def _read(self) -> None:
        seen = b""
        while not seen.endswith(b"\0"):
            seen += os.read(self._ours, 65536)
        self.written = seen[:-1].decode().replace("\r\n", "\n")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "", "COLORTERM": ""}.items():
        monkeypatch.setenv(name, value)
    terminal._stderr_console.cache_clear()
    yield Screen()
    terminal._stderr_console.cache_clear()


def shown(text: str) -> str:
    """A text without colours and movements of the cursor."""
    return ESCAPE.sub("", text)


# --- messages ------------------------------------------------------------------------------------------------------


def test_an_error_is_red_and_a_warning_yellow_on_a_terminal(screen: Screen) -> None:
    with screen:
        say_error("no [red]model[/red] here")
        say_warning("set aside")
    assert RED + "moesaic: error: " in screen.written and YELLOW + "moesaic: warning: " in screen.written
    assert shown(screen.written) == "moesaic: error: no [red]model[/red] here\nmoesaic: warning: set aside\n"


def test_in_a_pipe_they_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("no model here")
    say_warning("set aside")
    say("hello")
    assert capsys.readouterr().err == "moesaic: error: no model here\nmoesaic: warning: set aside\nhello\n"


def test_a_long_message_is_not_broken_into_lines(screen: Screen) -> None:
    with screen:
        say_error("x" * 200)
    assert shown(screen.written).count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colour_gets_none(name: str, value: str, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with screen:
        say_error("no model here")
        print_table(HEAD, ROWS)
    assert "no model here" in screen.written and "\x1b" not in screen.written


@pytest.mark.parametrize("arguments", [["run", "nowhere", "x"], ["run"], ["comprss"]])
def test_every_mistake_of_a_command_line_is_told_in_red(arguments: list[str], screen: Screen) -> None:
    with screen:
        try:
            assert main(arguments) == 2
        except SystemExit as end:
            assert end.code == 2
    assert re.search(re.escape(RED) + r"moesaic( run)?: error: \x1b", screen.written)


# --- tables --------------------------------------------------------------------------------------------------------


def test_a_table_in_a_pipe_has_columns_as_wide_as_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HEAD, ROWS)
    assert capsys.readouterr().out == PLAIN == plain_table(HEAD, ROWS) + "\n"


def test_columns_of_words_go_to_the_left() -> None:
    lines = plain_table(["stage", "found", "value"], [["prune", "a", "1"], ["moefy", "experts", "172"]], left=3)
    assert lines.splitlines()[2:] == ["prune  a        1", "moefy  experts  172"]


def test_a_table_on_a_terminal_says_the_same_in_colour(screen: Screen) -> None:
    with screen:
        print_table(HEAD, [*ROWS, ["[red]", "日本"]])
    assert "\x1b[1;36m" in screen.written
    assert shown(screen.written).split() == [
        *PLAIN.replace("-", "").split()[:3],
        "─" * 18,
        *PLAIN.split()[5:],
        "[red]",
        "日本",
    ]


def test_no_figure_of_a_table_is_cut_off_on_a_narrow_terminal(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "12")
    with screen:
        print_table(["layer", "active at balanced"], [["0", "0.123456789"]])
    lines = shown(screen.written).splitlines()
    assert [line.split() for line in lines[:3]] == [["active"], ["at"], ["layer", "balanced"]]
    assert lines[-1].split() == ["0", "0.123456789"]


# --- lines that are redrawn ----------------------------------------------------------------------------------------


def test_progress_on_a_terminal_is_one_line_with_a_bar_and_the_time_left(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with screen, ProgressLine() as progress:
        for done in range(1, 5):
            progress("scoring", done, 4)
    drawn = [line.strip() for line in screen.written.replace("\x1b[2K", "\n").splitlines() if "scoring" in line]
    assert "━" in drawn[0] and re.search(r"2 of 4 +about 2 s left", shown(drawn[1]))
    assert re.search(r"4 of 4$", shown(drawn[-1]))


def test_a_narrow_terminal_shortens_the_name_and_keeps_the_count(
    screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with screen, ProgressLine() as progress:
        progress("the documents of a text with a long name", 1000, 1000)
    [line] = set(shown(screen.written.replace("\r", "\n")).split("\n")) - {""}
    assert len(line) <= 40 and "…" in line and line.endswith("  1,000 of 1,000")


def test_the_terminal_is_given_back_when_a_step_fails(screen: Screen) -> None:
    with screen:
        with pytest.raises(KeyError), ProgressLine() as progress:
            progress._every = 0
            progress("scoring", 1, 4)
            say("a word in between")
            raise KeyError
        say_error("no model here")
    lines = shown(screen.written).splitlines()
    assert lines[0].endswith("a word in between") and "1 of 4" in lines[1]
    assert lines[2:] == ["moesaic: error: no model here"]


def test_the_cursor_is_never_hidden(screen: Screen) -> None:
    with screen, ProgressLine() as progress:
        progress("scoring", 4, 4)
    assert "4 of 4" in screen.written and "\x1b[?25l" not in screen.written


def test_progress_elsewhere_is_a_line_once_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 400, 4))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with ProgressLine() as progress:
        for done in range(1, 6):
            progress("scoring", done, 5)
    assert capsys.readouterr().err == "scoring: 3 of 5, about 8 s left\nscoring: 5 of 5\n"


def test_the_time_left_is_that_of_the_step_whatever_it_is_called(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a step of learning says its loss."""
    clock = iter(range(0, 100, 10))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = ProgressLine()
    for done in (1, 2, 3):
        progress(f"distill: KL 0.{done}", done, 4)
    progress("scoring", 1, 4)
    assert "about 20 s left\ndistill: KL 0.3: 3 of 4, about 10 s left\nscoring: 1 of 4\n" in capsys.readouterr().err


def test_waiting_is_said_once_and_on_a_terminal_with_rising_seconds(
    screen: Screen, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait() -> None:
        waiting = WaitingLine()
        for second in range(3):
            waiting("a is loading", second)
        waiting.end()

    with screen:
        wait()
    assert re.findall(r"a is loading, (\d) s", screen.written)[:3] == ["0", "1", "2"]
    wait()
    assert capsys.readouterr().err == "a is loading\n"


# --- what it costs -------------------------------------------------------------------------------------------------


def test_a_pipe_never_pays_for_rich() -> None:
    code = "import sys; from moesaic.cli.main import main; main(['models', 'list']); main(['run', 'nowhere', 'x'])"
    code += "; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
