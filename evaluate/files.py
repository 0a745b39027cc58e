"""What reports share: files written whole or not at all, pictures, and pages that need no other file."""

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..models.errors import SetupError

_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{background:#f6f6f4;padding:.6rem}.note{color:#666}
"""


def check_can_draw(asked: str) -> None:
    """Raises SetupError where matplotlib is missing. asked: the option or call that draws."""
    if find_spec("matplotlib") is None:
        raise SetupError(f"{asked} draws with matplotlib, which is not installed; pip install matplotlib")


def check_can_report(asked: str, folder: Path) -> None:
    """Raises SetupError, before any work, where a report cannot be drawn or this folder cannot hold it."""
    check_can_draw(asked)
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise SetupError(f"{asked} {folder}: {there} is no directory; name a directory, a new one or an old one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SetupError(f"{asked} {folder}: nothing can be written in {there}; name another directory")


def write_whole(file: Path, content: bytes) -> None:
    """Writes under a temporary name, then renames; where that fails nothing is left."""
    _write_together({file: content})


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files by name into a folder, made where it is missing; gives their paths.

    None takes its name before all are written, so that a run cut short leaves the files of the run before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {folder / name: content for name, content in files.items()}
    _write_together(found)
    return list(found)


def _write_together(files: Mapping[Path, bytes]) -> None:
    partials = {file.with_name(f".{file.name}.{os.getpid()}"): file for file in files}
    try:
        for partial, file in partials.items():
            partial.write_bytes(files[file])
        for partial, file in partials.items():
            partial.replace(file)
    except BaseException:
        for partial in partials:
            partial.unlink(missing_ok=True)
        raise


def html_page(title: str, body: str) -> str:
    """Self-contained HTML around a body that is HTML already; the title is text."""
    shown = html.escape(title)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{shown}</title><style>{_STYLE}</style>"
        f"<h1>{shown}</h1>{body}</html>\n"
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    return f"<table>{_line(head, 'th')}{''.join(_line(row, 'td') for row in rows)}</table>"


def html_notes(notes: Sequence[str]) -> str:
    """A small paragraph for each text."""
    return "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes)


def html_section(title: str, *parts: str) -> str:
    """Parts that are HTML already, under a title that is text."""
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def html_text(text: str) -> str:
    """Text as it is written, lines and all."""
    return f"<pre>{html.escape(text)}</pre>"


def html_image(picture: bytes, alt: str) -> str:
    """A PNG inside the page."""
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'


def as_png(figure: Any) -> bytes:
    """A matplotlib figure as the bytes of a file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _line(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
