"""Writes every page that is made of the files below bench/results/: `make results`, in a clone.

    python -m moesaic.bench.published.run

The words of the Markdown are in bench/published/templates/, those of the HTML where such a report is written.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...models.errors import SetupError
from ...models.extras import NO_PICTURE, can_draw
from ...models.files import write_whole
from ..controls import report as recipe_report
from ..evidence.published import is_of_now, pictures, report_page
from ..reference.card import model_card
from ..retention import page as curves_page
from ..retention.linears import page as linears_page
from .figures import RESULTS
from .text import render

ROOT = RESULTS.parents[1]
MARKDOWN = {
    "docs/results.md": "results",
    "docs/gpu.md": "gpu",
    "bench/results/retention/README.md": "retention",
    "bench/results/cost/README.md": "cost",
    "bench/results/evaluation/README.md": "evaluation",
    "bench/results/memory/README.md": "memory",
    "bench/results/engine/README.md": "engine",
    "bench/results/server/README.md": "server",
}
REPORT = "docs/report.html"
Page = Callable[[], str]


def pages() -> dict[Path, Page]:
    """Every page by its file, and what makes it."""
    found: dict[Path, Page] = {ROOT / name: partial(render, template) for name, template in MARKDOWN.items()}
    found[ROOT / REPORT] = report_page
    for file in sorted(RESULTS.glob("reference/*/card.json")):
        found[file.with_name("README.md")] = partial(_card, file)
    for file in sorted(RESULTS.glob("compress/*/report.json")):
        found[file.with_suffix(".html")] = partial(_html, recipe_report.page, file)
    for file in sorted(RESULTS.glob("retention/*/curves.json")):
        found[file.with_suffix(".html")] = partial(_html, _curves, file)
    return found


def _curves(report: Any, picture: bytes) -> str:
    made = linears_page.page if "axis" in report else curves_page.page
    return made(report, picture)


def _card(file: Path) -> str:
    return model_card(_read(file))


def _html(page: Callable[[Any, bytes], str], file: Path) -> str:
    """The page of a JSON file, with the picture beside it, if there is one."""
    picture = file.with_suffix(".png")
    return page(_read(file), picture.read_bytes() if picture.exists() else b"")


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def draw_pictures() -> None:
    """Draws what the report shows and was not drawn of the figures as they are; the others stay, byte by byte."""
    stale = {file: each for file, each in pictures().items() if not is_of_now(file, each[0])}
    if stale and not can_draw():
        raise SetupError(f"{next(iter(stale))} is of other figures; {NO_PICTURE}")
    for file, (picture, theme) in stale.items():
        file.parent.mkdir(exist_ok=True)
        write_whole(file, picture.draw(theme))
        sys.stdout.write(f"{file.relative_to(ROOT)}\n")


def main() -> int:
    """Status 2, and one sentence, where this is no clone."""
    if not RESULTS.is_dir():
        error = SetupError(f"{RESULTS} is missing: results are in a clone of the repository, not in an installation")
        sys.stderr.write(f"error: {error}\n")
        return 2
    draw_pictures()
    for file, page in pages().items():
        write_whole(file, page().encode())
        sys.stdout.write(f"{file.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
