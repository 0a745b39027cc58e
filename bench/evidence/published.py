"""docs/report.html: everything that bench/results/ holds on one page, with the pictures beside the files."""

from pathlib import Path

from ..published.figures import RESULTS, kept_as_served, loads, result
from .as_served import as_served
from .chart import THEMES, Picture
from .kept import against_speed, at_equal_bytes
from .losses import lost
from .machine import gpus, kernels, sizes, throughput
from .operations import operations
from .section import Section, page
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
    ops = operations(result("ops/2-cores"), "operations", "bench/results/ops/2-cores.json")
    return [against_speed(), at_equal_bytes(), throughput(), *served(), kernels(), ops, sizes(), gpus(), lost()]


def served() -> list[Section]:
    """One for each file of `moesaic bench retention` and of `moesaic bench serve`."""
    kept, load = kept_as_served().items(), loads().items()
    found = [as_served(report, f"served-{name}", f"bench/results/served/{name}.json") for name, report in kept]
    return found + [under_load(report, f"load-{name}", f"bench/results/load/{name}.json") for name, report in load]


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
