"""Builds the site: a copy of the pages, laid as they lie in the clone, so that every link between them holds.

    python docs/site/build.py      or: make docs

A link to a folder of results leads to the page in it. What is broken, or missing, ends it with a status that is not 0.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parents[2]
_KINDS = (".md", ".png", ".html")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?=[)#])")
_PAGES = ("README.md", "report.html")  # of a folder, the first that is there


def pages() -> Iterator[Path]:
    """Everything that the site shows."""
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))
    for folder in ("docs", "bench/results"):
        yield from (file for file in sorted((ROOT / folder).rglob("*")) if file.suffix in _KINDS)


def laid(file: Path) -> str:
    """The text of a page, with links to folders as links to their pages."""

    def page(link: re.Match[str]) -> str:
        folder = file.parent / link[1]
        found = next((name for name in _PAGES if (folder / name).is_file()), None)
        return f"]({link[1].rstrip('/')}/{found}" if found else link[0]

    return _LINK.sub(page, file.read_text(encoding="utf-8"))


def lay(to: Path) -> None:
    """Copies all pages below a folder, which is made anew."""
    shutil.rmtree(to, ignore_errors=True)
    for file in pages():
        copy = to / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".md":
            copy.write_text(laid(file), encoding="utf-8")
        else:
            shutil.copyfile(file, copy)


def build(to: Path, more: Mapping[str, str] = MappingProxyType({})) -> int:
    """The status of a build below a folder; a warning is an error. more: text that comes behind some pages."""
    lay(to / "pages")
    for name, text in more.items():
        with (to / "pages" / name).open("a", encoding="utf-8") as page:
            page.write(text)
    settings = to / "mkdocs.yml"
    shutil.copyfile(ROOT / "docs/site/mkdocs.yml", settings)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(settings)]
    # What becomes of the tool itself is no fault of a page.
    return subprocess.call(command, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


if __name__ == "__main__":
    sys.exit(build(ROOT / "build/site"))
