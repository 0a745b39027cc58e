"""The streams that a person reads: colour, tables and a line that is redrawn on a terminal, plain text anywhere else.

NO_COLOR takes the colours away; TERM=dumb is no terminal. Rich is imported where there is one, and nowhere else.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_REDRAW_SECONDS = 0.1
_UNLIMITED = 1 << 16  # columns: a terminal wraps what is too long, where Rich would leave figures out


def is_terminal(stream: TextIO) -> bool:
    """Whether a person reads it who sees colours and a cursor that moves."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def say(text: str) -> None:
    """A line on stderr, above the line that is redrawn where there is one."""
    _say(text)


def say_error(text: str, program: str = "moesaic") -> None:
    """What went wrong, on stderr; red on a terminal."""
    _say(text, f"{program}: error: ", "bold red")


def say_warning(text: str) -> None:
    """What moesaic does otherwise than one may think, on stderr; yellow on a terminal."""
    _say(text, "moesaic: warning: ", "yellow")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on stdout, its first `left` columns to the left, the others to the right."""
    if not is_terminal(sys.stdout):
        print(plain_table(head, rows, left))
        return
    width = len(plain_table(head, rows, left).splitlines()[1])
    names = [name.replace(" ", "\n") for name in head] if width > _new_console().width else head
    _new_console(width=_UNLIMITED).print(_rich_table(names, rows, left))


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as they need, with a line of dashes below their names."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(_aligned(row, widths, left)).rstrip() for row in [head, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


class RedrawnLine:
    """A line at the foot of stderr where that is a terminal; what `say` says meanwhile stands above it.

    Leaving the `with` block leaves it as it is and gives the terminal back.
    """

    def __init__(self) -> None:
        self._on_terminal = is_terminal(sys.stderr)
        self._live: Live | None = None

    def end(self) -> None:
        """What comes next begins below."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _draw(self, what: "RenderableType") -> None:
        if self._live is None:
            self._live = _new_live()
            self._live.start()
        self._live.update(what, refresh=True)


class ProgressLine(RedrawnLine):
    """How far a long step is: a bar on a terminal, a line once a while elsewhere.

    No thread redraws it, since one would disturb what is measured.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        self._every = _REDRAW_SECONDS if self._on_terminal else every_seconds
        self._drawn = time.monotonic()
        self._first = self._seen = (0, 0, 0.0)  # done, of how many, when: where this step began, and where it is

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if total != self._seen[1] or done < self._seen[0]:
            self._first = (done, total, now)
        self._seen = (done, total, now)
        if done < total and now - self._drawn < self._every:
            return
        self._drawn = now
        left = self._left()
        if not self._on_terminal:
            print(f"{what}: {done} of {total}{', ' * bool(left)}{left}", file=sys.stderr)
            return
        self._draw(_bar(what, done, total, left))
        if done == total:
            self.end()

    def _left(self) -> str:
        """The time left, by what went by since this step was first heard of; nothing at its first and last moment."""
        (first, _, began), (done, total, now) = self._first, self._seen
        return f"about {(now - began) / (done - first) * (total - done):.0f} s left" if first < done < total else ""


class WaitingLine(RedrawnLine):
    """What is waited for: said once, and on a terminal with the seconds that it has taken so far."""

    def __init__(self) -> None:
        super().__init__()
        self._said = ""

    def __call__(self, what: str, seconds: float) -> None:
        if self._on_terminal:
            self._draw(f"{what}, {seconds:.0f} s")
        elif what != self._said:
            print(what, file=sys.stderr)
        self._said = what


def _say(text: str, begin: str = "", style: str = "") -> None:
    if not is_terminal(sys.stderr):
        print(f"{begin}{text}", file=sys.stderr)
        return
    from rich.text import Text

    _stderr_console().print(Text.assemble((begin, style), text), soft_wrap=True)


@cache
def _stderr_console() -> "Console":
    """The one that is redrawn on, and that everything else on stderr has to know of."""
    return _new_console(stderr=True)


def _new_console(stderr: bool = False, width: int | None = None) -> "Console":
    """Writes to what sys.stdout or sys.stderr is at the time."""
    from rich.console import Console

    class _Console(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False  # never hidden: a command that is killed could not bring it back

    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return _Console(
        stderr=stderr, width=width, force_terminal=True, color_system=colours,
        highlight=False, markup=False, emoji=False,
    )  # fmt: skip


def _new_live() -> "Live":
    from rich.live import Live

    return Live(console=_stderr_console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False)


def _bar(what: str, done: int, total: int, left: str) -> "RenderableType":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    told = [f"{done:,} of {total:,}", left] if left else [f"{done:,} of {total:,}"]
    room = _stderr_console().width - sum(len(each) + 2 for each in told) - 2  # for name and bar
    width = min(24, max(room // 3, 1))
    name = what if len(what) <= room - width else what[: max(room - width - 1, 0)] + "…"
    bar = ProgressBar(total, done, width=width, complete_style="cyan", finished_style="green")
    grid = Table.grid(*("" for _ in (name, bar, *told)), padding=(0, 2))
    for column in grid.columns:
        column.no_wrap = True
    grid.add_row(name, bar, *told)
    return grid


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> "RenderableType":
    """The plain table with a rule in place of the dashes; no cell is broken or cut off."""
    from rich import box
    from rich.table import Table

    grid = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold cyan"
    )  # fmt: skip
    for i, name in enumerate(head):
        grid.add_column(name, justify="left" if i < left else "right", no_wrap=True, vertical="bottom")
    for row in rows:
        grid.add_row(*row)
    return grid


def _aligned(row: Sequence[str], widths: Sequence[int], left: int) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if i < left else cell.rjust(width)
