"""What reports share: pictures, and pages that need no other file."""

import base64
import html
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..models.extras import check_installed
from ..models.files import check_writable

_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{background:#f6f6f4;padding:.6rem}.note{color:#666}
"""


def check_can_draw(asked: str) -> None:
    """Raises SetupError where matplotlib is missing. asked: the option or call that draws."""
    check_installed(asked, "report", "matplotlib")


def check_can_report(asked: str, folder: Path) -> None:
    """Raises SetupError, before any work, where a report cannot be drawn or this folder cannot hold it."""
    check_can_draw(asked)
    check_writable(folder, f"{asked} {folder}")


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
    """A matplotlib figure as the bytes of a file; letters that its font lacks are drawn as boxes."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(stream, format="png")
    return stream.getvalue()


def _line(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
