"""docs/report.html: everything that bench/results/ holds on one page, with the pictures beside the files."""

from dataclasses import replace
from pathlib import Path

from ..load.run import Report
from ..published.figures import RESULTS, kept_as_served, loads, result
from .as_served import as_served
from .chart import THEMES, Picture
from .kept import against_speed, at_equal_bytes
from .losses import lost
from .machine import gpus, kernels, sizes, throughput
from .operations import operations
from .section import Section, commands, page
from .under_load import under_load

PICTURES = RESULTS / "report"
TITLE = "moesaic: what was measured"
INTRO = (
    "What a model keeps, how fast it is and what it takes, beside others on the same weights and machine; the losses "
    "have a section of their own. Every figure is of a JSON file below bench/results/, which each section names; "
    "make results makes this page of them.",
)


def sections() -> list[Section]:
    """All of them; servers under load as soon as a file tells of them."""
    file = result("ops/2-cores")
    ops = _by_command(operations(file, "operations", "bench/results/ops/2-cores.json"), file)
    return [against_speed(), at_equal_bytes(), throughput(), *served(), kernels(), ops, sizes(), gpus(), lost()]


def served() -> list[Section]:
    """One for each file of `moesaic bench retention` and of `moesaic bench serve`."""
    kept, load = kept_as_served().items(), loads().items()
    found = [(as_served(each, f"served-{name}", f"bench/results/served/{name}.json"), each) for name, each in kept]
    found += [(under_load(each, f"load-{name}", f"bench/results/load/{name}.json"), each) for name, each in load]
    return [_by_command(section, report) for section, report in found]


def _by_command(section: Section, report: Report) -> Section:
    """With the command as it is told to others: on one's own page it is as it was typed."""
    return replace(section, command=commands(report))


def report_page() -> str:
    """The HTML, with the pictures as they lie below bench/results/report/."""
    return page(TITLE, INTRO, sections(), lambda picture, theme: picture_file(picture, theme).read_bytes())


def pictures() -> dict[Path, tuple[Picture, str]]:
    """What is drawn, by file."""
    shown = [picture for section in sections() for picture in section.pictures]
    return {picture_file(each, theme): (each, theme) for each in shown for theme in THEMES}


def picture_file(picture: Picture, theme: str) -> Path:
    """Where it lies."""
    return PICTURES / f"{picture.name}-{theme}.png"


def is_of_now(file: Path, picture: Picture) -> bool:
    """Whether a file was drawn of the figures as they are."""
    return file.exists() and picture.digest.encode() in file.read_bytes()
