"""Every page of HTML is made here, of the templates in evaluate/templates: one look, no script, no other file."""

import base64
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"
_NUMBER = re.compile(r"[-+]?x?\d")
_ONE_PANEL = 1000  # pixels


def render(template: str, title: str, **content: object) -> str:
    """A page; what it is given is text and is escaped, but for pictures, which are the bytes of a PNG."""
    return _environment().get_template(f"{template}.html.j2").render(title=title, **content)


def environment(templates: Path, autoescape: bool) -> Environment:
    """How templates are read: a name without a value is an error, and a line of control leaves none behind."""
    return Environment(
        loader=FileSystemLoader(templates), autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    found = environment(TEMPLATES, autoescape=True)
    found.filters["column_kinds"] = _column_kinds
    found.filters["base64"] = _base64
    found.filters["is_broad"] = _is_broad
    return found


def _column_kinds(rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """The kind of each column: `number`, which stands to the right, where most filled cells begin so, or `text`."""
    filled = [[row[column] for row in rows if row[column]] for column in range(columns)]
    numbers = [sum(bool(_NUMBER.match(cell)) for cell in cells) for cells in filled]
    return ["number" if 2 * count > len(cells) else "text" for count, cells in zip(numbers, filled, strict=True)]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _is_broad(png: bytes) -> bool:
    """A picture of several panels, which a narrow window would make too small to read."""
    return int.from_bytes(png[16:20], "big") > _ONE_PANEL
