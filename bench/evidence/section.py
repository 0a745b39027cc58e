"""A page of evidence: sections with pictures, tables and what one must know, as HTML that needs no other file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...evaluate.pages import render
from ..published.text import command
from .chart import DARK, LIGHT, Picture

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]
Read = Callable[[Picture, str], bytes]


@dataclass(frozen=True, slots=True)
class Table:
    """A head and rows of texts under a caption."""

    caption: str
    content: Rows


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the page. anchor: what an address ends with. made: on what it was measured, and of which files."""

    anchor: str
    title: str
    intro: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    points: Sequence[str] = ()
    command: str = ""
    made: Sequence[str] = ()


def page(title: str, intro: Sequence[str], sections: Sequence[Section], read: Read | None) -> str:
    """The HTML. read: the PNG of a picture in a theme, where from; None leaves pictures out."""
    pictures = [each for section in sections for each in section.pictures] if read else []
    shown = {each.name: {theme: read(each, theme) for theme in (LIGHT, DARK)} for each in pictures if read}
    return render("evidence", title, intro=intro, sections=sections, shown=shown)


def drawn_now(picture: Picture, theme: str) -> bytes:
    """For a page that is made once."""
    return picture.draw(theme)


def commands(*results: Mapping[str, Any]) -> str:
    """What made each of them, a line each, as their files hold it."""
    return "\n".join(map(command, results))


def machine_line(machine: Mapping[str, object]) -> str:
    """Device, versions and commit, as far as they were noted."""
    device = [f"{machine['device']}, {machine['processors']} processors"] if "device" in machine else []
    versions = machine.get("versions")
    packages = [f"{name} {said}" for name, said in versions.items()] if isinstance(versions, Mapping) else []
    commit = [f"commit {machine['commit']}"] if "commit" in machine else []
    return "; ".join([*device, *([", ".join(packages)] if packages else []), *commit])
