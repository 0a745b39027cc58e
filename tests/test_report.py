"""The report: one page of JSON alone, legible light, dark and on a phone, and the same of one's own files."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Tab, opened
from house import ROOT
from load_records import driven, record

from moesaic.bench.evidence import published
from moesaic.bench.evidence.chart import DARK, LIGHT, Chart, Point, Series
from moesaic.bench.evidence.kept import INPUTS, NEW_HERE, OFF_GRID, PRIOR_ART, at_equal_bytes
from moesaic.bench.evidence.losses import lost
from moesaic.bench.evidence.own import section_of, write_own
from moesaic.bench.evidence.published import PICTURES, is_of_now, pictures, report_page
from moesaic.bench.evidence.under_load import under_load
from moesaic.bench.load.figures import Limits, figures
from moesaic.bench.published import figures as figures_of_files
from moesaic.bench.published.figures import RESULTS, curves, pooled
from moesaic.bench.published.text import command, goodput_limits, load_table
from moesaic.cli.main import main
from moesaic.models.errors import SetupError

PAGE = ROOT / "docs/report.html"
RECIPE, SUITES = RESULTS / "compress/smollm2-all-four/report.json", RESULTS / "stories260k-2-cpu-cores.json"
LEVEL = figures(driven(*(record(i, [i + 0.2, i + 0.3], tier="low") for i in range(5))), Limits(ttft=0.5))
LOAD: dict[str, Any] = {
    "kind": "load", "command": "moesaic bench serve ours", "complete": True, "limits": {"ttft": 0.5},
    "machine": {"device": "a processor", "processors": 2, "versions": {"torch": "2.13.0"}, "commit": "abc"},
    "targets": {"ours": {"place": "ours"}},
    "levels": [{"name": f"users {users}", "users": users, "results": {"ours": LEVEL}} for users in (1, 4)],
}  # fmt: skip
LINE = Series("ours", (Point(1, 2, 1.5, 2.5, "low"), Point(4, 8)), 0)
CHART = Chart("a", "Speed", "streams", "tokens/s", (LINE,), upright=(("theirs", 3.0),), level=("plain reads", 9.0))


def test_pictures_were_drawn_of_the_figures_as_they_are() -> None:
    found = pictures()
    assert [file for file, (picture, _) in found.items() if not is_of_now(file, picture)] == [], "make results"
    assert set(PICTURES.glob("*")) == set(found)


def test_another_figure_is_another_picture() -> None:
    moved = Chart(CHART.name, CHART.title, CHART.across, CHART.up, (Series("ours", (Point(1, 2.1),), 0),))
    assert moved.digest != CHART.digest and CHART.digest == Chart(*vars_of(CHART)).digest


def vars_of(chart: Chart) -> list[Any]:
    return [getattr(chart, name) for name in Chart.__dataclass_fields__]


def test_a_picture_is_told_in_words() -> None:
    assert CHART.alt == (
        "Speed. Across: streams; up: tokens/s. ours: low 2 at 1, 8 at 4; theirs: at 3, no height measured; "
        "a line at 9: plain reads."
    )


def test_a_picture_has_the_ground_of_its_page() -> None:
    light, dark = (_corner(CHART.draw(theme)) for theme in (LIGHT, DARK))
    assert min(light) > 250 and max(dark) < 40


def _corner(png: bytes) -> tuple[int, ...]:
    import io

    from PIL import Image

    found = Image.open(io.BytesIO(png)).convert("RGB").getpixel((0, 0))
    assert isinstance(found, tuple)
    return tuple(int(each) for each in found)


def test_the_page_needs_no_script_and_no_other_file_and_every_entry_leads_somewhere() -> None:
    page = PAGE.read_text()
    assert not re.search(r"<script|<link|https?:|url\(|@import| on\w+=|src(set)?=\"(?!data:)", page)
    assert set(re.findall(r'href="#([^"]+)"', page)) == set(re.findall(r'<h2 id="([^"]+)"', page))
    assert all(len(alt) > 60 for alt in re.findall(r'alt="([^"]*)"', page))


def test_every_section_says_of_which_files_it_is_made_and_that_they_are_there() -> None:
    for section in published.sections():
        named = re.findall(r"bench/results/[\w./-]*\w", " ".join(section.made))
        assert named and all((ROOT / each).exists() for each in named), section.title


def test_the_commands_of_sections_are_those_that_files_hold() -> None:
    read = (json.loads(file.read_text()) for file in RESULTS.rglob("*.json"))
    held = {command(each) for each in read if isinstance(each, dict) and "command" in each}
    lines = [line.partition("   #")[0] for each in published.sections() for line in each.command.splitlines()]
    assert len(lines) > 15 and {*lines} - held == {"bash bench/gpu.sh OUT"}


def test_every_method_of_the_linears_is_drawn_and_told_by_the_bytes_of_the_whole_model() -> None:
    section = at_equal_bytes()
    found: dict[tuple[str, float], Any] = {}
    for run in ("curve", "off-grid-rest", "tiles"):
        for each in json.loads((RESULTS / f"retention/linears-{run}/curves.json").read_text())["points"]:
            found.setdefault((each["method"], each["share"]), each)
    drawn = next(each for each in section.pictures if each.name == "bytes-perplexity")
    assert isinstance(drawn, Chart) and "linears and head" in drawn.across
    shown = sorted(point.x for each in drawn.series for point in each.points)
    assert shown == pytest.approx(sorted(100 * each["whole_share"] for each in found.values()))
    assert {row[0] for row in section.tables[1].content[1]} == {name for name, share in found if share == 0.55}


def test_bytes_of_pooled_runs_are_their_mean() -> None:
    runs = [curves(each).kept(INPUTS, 0.5) for each in OFF_GRID]
    together = pooled(*OFF_GRID).kept(INPUTS, 0.5)
    assert together and all(runs)
    wholes = [each.whole for each in runs if each]
    assert min(wholes) < together.whole < max(wholes) and together.whole not in wholes


def test_of_a_path_outside_the_project_a_command_shows_the_last_part() -> None:
    typed = "moesaic bench serve a=/home/me/b ../x/y.txt ~/z.json --out=/tmp/o/ /p/q,/r/s '/t u/v w' out/k ./l http://h:1/v1"
    shown = "moesaic bench serve a=b y.txt z.json --out=o q,s 'v w' out/k ./l http://h:1/v1"
    assert command({"command": typed}) == shown


def test_ones_own_page_has_the_command_as_it_was_typed(tmp_path: Path) -> None:
    (tmp_path / "load.json").write_text(json.dumps({**LOAD, "command": "moesaic bench serve /home/me/b"}))
    assert section_of(tmp_path / "load.json", 1).command == "moesaic bench serve /home/me/b"


def test_losses_are_of_the_files_and_gpus_are_not_measured() -> None:
    lines = [row[0] for table in lost().tables for row in table.content[1]]
    assert any("98.1 % at 0.608" in line for line in lines) and any("x0.655 the tokens" in line for line in lines)
    assert "not measured" in unescape(report_page()).partition("predictions")[2]


def test_prior_art_is_named_in_the_report_and_word_by_word_where_the_decision_is_told() -> None:
    document = " ".join((ROOT / "docs/decisions/bits-by-inputs.md").read_text().split())
    assert f"## Prior art {PRIOR_ART} {NEW_HERE}" in document and {f"Prior art. {PRIOR_ART}", NEW_HERE} <= {
        *at_equal_bytes().points
    }
    assert "decisions/bits-by-inputs.md#prior-art" in (ROOT / "docs/how-it-works.md").read_text()


def test_servers_under_load_have_a_section_as_soon_as_a_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "load").mkdir()
    (tmp_path / "load/two.json").write_text(json.dumps(LOAD))
    (tmp_path / "load/other.json").write_text("{}")
    monkeypatch.setattr(figures_of_files, "RESULTS", tmp_path)
    assert [section.anchor for section in published.served()] == ["load-two"]
    assert "| users 4 | ours | 5 of 5 |" in load_table(LOAD) and goodput_limits({"ttft": 0.5}) == "TTFT at most 500 ms"


def open_loop(offered: float, *given_up: str) -> dict[str, Any]:
    results = {name: {**LEVEL, "why": "it died" if name in given_up else ""} for name in ("ours", "theirs")}
    return {"name": f"rate {offered:g}/s", "users": 0, "offered_per_second": offered, "results": results}


def test_goodput_stands_over_offered_load_and_what_was_given_up_nowhere() -> None:
    targets, offered = {name: {"place": name} for name in ("ours", "theirs")}, {"ours": [0.5, 4.0], "theirs": [0.5]}
    levels = [*LOAD["levels"], open_loop(4.0, "theirs"), open_loop(0.5)]
    charts = under_load({**LOAD, "targets": targets, "levels": levels}, "a", "a.json").pictures[-2:]
    for chart, figure in zip(charts, ("goodput", "answers_per_second"), strict=True):
        assert isinstance(chart, Chart) and chart.across == "offered, requests/s"
        assert {each.name: [point.x for point in each.points] for each in chart.series} == offered
        assert {point.y for each in chart.series for point in each.points} == {LEVEL[figure]["value"]}


def test_ones_own_reports_are_a_page_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load, out = tmp_path / "load.json", tmp_path / "new/report.html"
    load.write_text(json.dumps(LOAD))
    assert main(["bench", "report", str(load), str(RECIPE), str(SUITES), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"written: {out}, 3 sections\n"
    page = out.read_text()
    assert page.count("<h2 ") == 3 and page.count("<img ") == page.count("<source ") == 5


def test_without_matplotlib_the_page_has_tables_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesaic.bench.evidence.own.can_draw", lambda: False)
    write_own([RECIPE], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "matplotlib is not installed" in page and "<img" not in page and "balanced" in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "is no JSON of a report"), ("[1]", "is no JSON of a report"), ('{"a": 1}', "is none of"),
        ('{"kind": "load"}', "'levels' is missing"), ('{"tiers": 1, "recipe": 1, "stages": 1}', "is missing"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_report_is_refused_before_anything_is_written(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SetupError, match=said):
        write_own([RECIPE, tmp_path / "a.json"], tmp_path / "out/report.html")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def own_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "load.json").write_text(json.dumps(LOAD))
    write_own([folder / "load.json", RECIPE], folder / "report.html")
    return folder / "report.html"


@pytest.mark.skipif(not PROGRAM, reason="no Chromium is installed")
@pytest.mark.parametrize("whose", ["published", "own"])
def test_pages_fit_the_window_and_show_their_pictures(whose: str, own_page: Path) -> None:
    with opened((PAGE if whose == "published" else own_page).as_uri()) as tab:
        for width in (1200, 360):
            for is_dark in (False, True):
                tab.resize(width, 900, mobile=width == 360)
                tab.dark(is_dark)
                _fits(tab, is_dark)
        assert [each for each in tab.complaints if not each.startswith("file:")] == []


def _fits(tab: Tab, is_dark: bool) -> None:
    """Nothing is wider than the window or lies over other things, and pictures and page are not empty."""
    tab.until("document.readyState === 'complete' && [...document.images].every(each => each.complete)")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.run("[...document.images].every(each => each.naturalWidth > 0 && each.width > 200)")
    assert tab.run(_APART)
    colours = _colours(tab.picture())
    assert len(colours) > 8 and (sum(max(colours)[1]) < 150) == is_dark


_APART = """[...document.querySelectorAll('main > *, section > *, figure')].every((each, i, all) => {
  const next = each.nextElementSibling;
  if (!next || !each.getClientRects().length || each.tagName === 'FIGURE') return true;
  return next.getBoundingClientRect().top >= each.getBoundingClientRect().bottom - 1;
})"""


def _colours(png: bytes) -> list[tuple[int, tuple[int, ...]]]:
    """How many pixels are of each."""
    import io

    from PIL import Image

    found = Image.open(io.BytesIO(png)).convert("RGB").getcolors(1 << 24)
    assert found
    return [(count, colour) for count, colour in found if isinstance(colour, tuple)]


@pytest.mark.skipif(not PROGRAM, reason="no Chromium is installed")
@pytest.mark.parametrize("whose", ["published", "own"])
def test_pages_are_empty_nowhere_down_to_their_end_nor_on_paper(whose: str, own_page: Path) -> None:
    with opened((PAGE if whose == "published" else own_page).as_uri()) as tab:
        for width, is_dark in ((1200, False), (360, True)):
            tab.resize(width, 900, mobile=width == 360)
            tab.dark(is_dark)
            tab.until("document.readyState === 'complete' && [...document.images].every(each => each.complete)")
            assert _longest_gap(tab) < 250
        tab.dark(False)
        printed = _drawn_on(tab.printed())
        assert printed and all(re.search(rb"\bT[jJ]\b|\bDo\b", sheet) for sheet in printed)


def _longest_gap(tab: Tab) -> float:
    """The highest stretch of the whole page where nothing is seen, of which a chart that is not drawn has more."""
    import io

    import numpy
    from PIL import Image

    strips = [numpy.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for png in tab.strips()]
    seen = numpy.concatenate([(strip != strip[:, :1]).any(axis=(1, 2)) for strip in strips])
    edges = numpy.flatnonzero(numpy.concatenate([[True], seen, [True]]))
    return float(numpy.diff(edges).max()) / 0.25


def _drawn_on(pdf: bytes) -> list[bytes]:
    """What is drawn on each sheet: text by Tj, pictures by Do."""
    import zlib

    parts = dict(re.findall(rb"(\d+) 0 obj\n(.*?)endobj", pdf, re.DOTALL))
    sheets = re.findall(rb"/Type /Page\n.*?/Contents (\d+) 0 R", pdf, re.DOTALL)
    return [zlib.decompress(parts[each].partition(b"stream\n")[2]) for each in sheets]


@pytest.mark.skipif(not PROGRAM, reason="no Chromium is installed")
def test_the_first_key_leads_past_the_contents() -> None:
    with opened(PAGE.as_uri()) as tab:
        tab.until("document.readyState === 'complete'")
        tab.press("Tab", 9)
        assert tab.run("document.activeElement.className") == "skip"
        tab.press("Enter", 13, text="\r")
        tab.until("location.hash === '#speed'")
