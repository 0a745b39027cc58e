"""Pages of HTML: one set of templates makes all reports, and what they are given is text; a server has one page."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from house import FOLDERS, ROOT

from moesaic.bench.controls import report as recipe_report
from moesaic.bench.evidence.chart import Chart
from moesaic.bench.evidence.section import Section, Table
from moesaic.bench.retention import page as curves_page
from moesaic.bench.tour import Row
from moesaic.bench.tour import write_report as write_tour
from moesaic.evaluate.files import as_png
from moesaic.evaluate.pages import TEMPLATES, render

HOSTILE = "<script>alert('it & me')</script>"
TABLE = (["method", "top-1", "why"], [[HOSTILE, "98.04%", ""], ["int8", "0.98 (0.97 to 0.99)", "as it was asked"]])
CHART = Chart(HOSTILE, HOSTILE, HOSTILE, HOSTILE, ())
RESULTS = ROOT / "bench/results"
CONTENT: dict[str, dict[str, Any]] = {
    "evaluation": {"figures": TABLE, "notes": [HOSTILE], "picture": b"png"},
    "recipe": dict.fromkeys(("tiers", "controls", "verdicts", "speed", "stages"), TABLE)
    | {
        "notes": [HOSTILE],
        "notices": [HOSTILE],
        "tasks": TABLE,
        "recipe": HOSTILE,
        "command": HOSTILE,
        "picture": b"png",
    },
    "curves": {"shares": [("55%", TABLE)], "whole": "the bytes", "notes": [HOSTILE], "picture": b""},
    "evidence": {
        "intro": [HOSTILE],
        "sections": [
            Section(HOSTILE, HOSTILE, [HOSTILE], [CHART], [Table(HOSTILE, TABLE)], [HOSTILE], HOSTILE, [HOSTILE])
        ],
        "shown": {HOSTILE: {"light": b"png", "dark": b"png"}},
    },
    "tour": {"tiers": TABLE, "notes": [HOSTILE], "picture": b""},
}


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


@pytest.mark.parametrize("template", CONTENT)
def test_text_that_looks_like_html_is_shown_as_text(template: str) -> None:
    page = render(template, HOSTILE, **CONTENT[template])
    assert "<script" not in page and HOSTILE in unescape(page) and "&amp;amp;" not in page


def test_a_model_named_like_a_script_is_escaped_in_every_report(tmp_path: Path) -> None:
    pages = [recipe_report.page(result("compress/relu-2m-shipped/report.json") | {"model": HOSTILE}, b"")]
    pages += [curves_page.page(result("retention/smollm2-wide1/curves.json") | {"model": HOSTILE}, b"")]
    write_tour([Row(HOSTILE, "full", 10, 1.0, 3.0, 0.5)], HOSTILE, {"device": HOSTILE}, [], tmp_path)
    for page in [*pages, (tmp_path / "report.html").read_text()]:
        assert "<script" not in page and HOSTILE in unescape(page)


@pytest.mark.parametrize("template", CONTENT)
def test_a_page_needs_no_script_and_no_other_file(template: str) -> None:
    page = render(template, "stories260k", **CONTENT[template])
    assert not re.search(r"<script|<link|https?:|url\(|@import| on\w+=|src=\"(?!data:)", page)
    assert page.count("<style>") == 1 and "prefers-color-scheme: dark" in page and "<!doctype html>" in page


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    page = render("tour", "stories260k", tiers=TABLE, notes=[], picture=b"")
    assert '<th class="number">top-1</th>' in page and '<td class="number">0.98 (0.97 to 0.99)</td>' in page
    assert '<th class="text">method</th>' in page and '<td class="text">as it was asked</td>' in page


@pytest.mark.parametrize(
    ("cells", "kind"), [(["1.0", "not run"], "text"), (["1", "2", "no figure"], "number"), (["", ""], "text"),
                        (["x1.05", "-3", "+2.1%"], "number"), (["int8", "bf16"], "text")],
)  # fmt: skip
def test_a_column_is_of_numbers_where_most_of_it_is(cells: list[str], kind: str) -> None:
    page = render("tour", "", tiers=(["of"], [[cell] for cell in cells]), notes=[], picture=b"")
    assert f'<th class="{kind}">of</th>' in page


def test_a_template_without_its_content_is_no_page() -> None:
    with pytest.raises(Exception, match="'notes' is undefined"):
        render("tour", "stories260k", tiers=TABLE, picture=b"")


def test_every_template_is_of_the_one_set() -> None:
    everywhere = {file for folder in FOLDERS for file in (ROOT / folder).rglob("*.html.j2")}
    assert everywhere == set(TEMPLATES.resolve().iterdir())
    assert {file.name for file in everywhere} == {f"{name}.html.j2" for name in ("base", "parts", *CONTENT)}
    whole = {name for name in CONTENT if '{% extends "base.html.j2" %}' in (TEMPLATES / f"{name}.html.j2").read_text()}
    assert whole == set(CONTENT)


def test_the_page_of_a_server_is_the_only_html_that_is_no_report() -> None:
    """It is sent as it stands (tests/test_http_page.py): nothing is ever put into it."""
    found = {file for folder in FOLDERS for file in (ROOT / folder).rglob("*.html")}
    assert {file for file in found if RESULTS not in file.parents} == {ROOT / "server/http/page.html"}


def test_no_html_is_written_by_hand() -> None:
    for file in (each for folder in FOLDERS for each in (ROOT / folder).rglob("*.py")):
        assert not re.search(r"</?(html|table|td|h[1-6]|p|img|pre|style)\b[^<]*>", file.read_text()), file


def test_the_tour_has_a_page_without_matplotlib_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("dense", "full", 10**6, 1.0, 3.0, 0.5), Row("all four", "low", 10**6, 0.5, 3.1, 0.49, 80.0)]
    monkeypatch.setattr("moesaic.bench.tour.can_draw", lambda: False)
    write_tour(rows, "stories260k", {"device": "a CPU"}, ["one note"], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]
    page = (tmp_path / "report.html").read_text()
    assert "98.0%" in page and "one note" in page and "<img" not in page


def test_a_picture_is_inside_its_page(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    rows = [Row("dense", "full", 10**6, 1.0, 3.0, 0.5), Row("all four", "low", 10**6, 0.5, 3.1, 0.49, 80.0)]
    write_tour(rows, "stories260k", {"device": "a CPU"}, [], tmp_path)
    assert (tmp_path / "report.png").read_bytes()[:4] == as_png(Figure())[:4]
    assert 'src="data:image/png;base64,iVBOR' in (tmp_path / "report.html").read_text()
