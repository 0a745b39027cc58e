"""A page of a person's own reports: each JSON file becomes a section, by what it holds."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...models.errors import SetupError
from ...models.extras import NO_PICTURE, can_draw
from ...models.files import write_whole
from ..controls import report as recipe_report
from ..load.run import KIND
from ..ops.run import KIND as OPS
from ..ops.run import rows as ops_rows
from ..report import kernel_rows, notes, rows
from ..served.run import KIND as SERVED
from .as_served import as_served
from .chart import Chart, Point, Series
from .operations import operations
from .section import Section, Table, drawn_now, machine_line, page
from .under_load import under_load

Report = Mapping[str, Any]
Make = Callable[[Report, str, str], Section]
_FIGURES = {"perplexity": ".4g", "top1_accuracy": ".2%", "bits_per_byte": ".4f", "kl_nats_per_token": ".4f"}


def write_own(files: Sequence[Path], out: Path) -> int:
    """Writes the page and gives how many sections it has. Raises SetupError for a file that is no report."""
    sections = [section_of(file, number) for number, file in enumerate(files, 1)]
    intro = [f"Made of {', '.join(file.name for file in files)}.", *([] if can_draw() else [NO_PICTURE])]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page("What was measured", intro, sections, drawn_now if can_draw() else None).encode())
    return len(sections)


def section_of(file: Path, number: int) -> Section:
    """The section of one file. number: tells it from others of the page."""
    report = _read(file)
    make = next((make for keys, make in _KINDS if all(_holds(report, key) for key in keys)), None)
    if make is None:
        raise SetupError(f"{file}: is none of the reports that {_MAKERS} write")
    try:
        return make(report, f"report-{number}", file.name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration) as error:
        lacking = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise SetupError(f"{file}: is cut off or of another version of moesaic ({lacking}); measure it again") from None


def _read(file: Path) -> Report:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SetupError(f"{file}: is no JSON of a report; give files that {_MAKERS} write")
    return found


def _holds(report: Report, key: str) -> bool:
    name, _, value = key.partition("=")
    return name in report and (not value or report[name] == value)


def _suites(report: Report, anchor: str, file: str) -> Section:
    tables = [Table("By model and peer", rows(dict(report)))]
    tables += [Table("Kernels", kernel_rows(report["kernels"]))] if "kernels" in report else []
    tables += [Table("Operations", ops_rows(report["ops"]))] if "ops" in report else []
    return Section(
        anchor, f"{report['model']}: speed, and what int8 keeps", (), _speeds(report, anchor), tables,
        list(notes(dict(report))), report.get("command", ""), [f"{file}: {machine_line(report['machine'])}"],
    )  # fmt: skip


def _speeds(report: Report, anchor: str) -> list[Chart]:
    speed = report.get("engine", {}).get("speed", {})
    series = [
        Series(name, tuple(Point(int(batch), each["tokens_per_second"]) for batch, each in by_batch.items()), colour)
        for colour, (name, by_batch) in enumerate(speed.items())
    ]
    title = "Tokens per second by streams"
    return [Chart(f"{anchor}-speed", title, "streams", "tokens/s", tuple(series), from_zero=True)] if series else []


def _evaluation(report: Report, anchor: str, file: str) -> Section:
    head = ["text", "", *(name.replace("_", " ") for name in _FIGURES)]
    scored = [
        [text["name"], name, *(_shown(scores.get(figure), form) for figure, form in _FIGURES.items())]
        for text in report["texts"] for name, scores in text["scores"].items()
    ]  # fmt: skip
    tasks = [
        [task["name"], name, _shown(scores.get("score"), ".2%"), _shown(scores.get("chance"), ".2%")]
        for task in report["tasks"] for name, scores in task["scores"].items()
    ]  # fmt: skip
    tables = [Table("Texts", (head, scored))] if scored else []
    tables += [Table("Tasks", (["task", "", "score", "chance"], tasks))] if tasks else []
    return Section(anchor, f"{report['plan']['model']}: evaluation", (), [], tables, [], "", [file])


def _recipe(report: Report, anchor: str, file: str) -> Section:
    tables = [
        Table("Tiers", recipe_report.tier_rows(dict(report))),
        Table("Stages", recipe_report.stage_rows(dict(report))),
    ]
    tables += [Table("Controls", recipe_report.control_rows(dict(report)))] if report["controls"] else []
    tables += [Table("Speed", recipe_report.speed_rows(dict(report)))] if report["speed"] else []
    return Section(
        anchor, f"{report['model']}: what the recipe kept", (), [_tiers(report, anchor)], tables,
        recipe_report.notes(dict(report)), report["command"], [f"{file}: {machine_line(report['provenance'])}"],
    )  # fmt: skip


def _tiers(report: Report, anchor: str) -> Chart:
    """Top-1 over bytes: tiers with their intervals, and controls."""
    tiers = tuple(_tier(each, each["against_original"]["top1_accuracy"]) for each in report["tiers"])
    controls = tuple(
        Point(100 * each["bytes_share"], 100 * each["relative_top1"], label=each["name"])
        for each in report["controls"] if "score" in each
    )  # fmt: skip
    series = [Series("tiers", tiers, 0)] + ([Series("controls", controls, 1, joined=False)] if controls else [])
    return Chart(
        f"{anchor}-tiers",
        "What tiers keep",
        "% of the bytes that a token reads",
        "% of the original's top-1",
        tuple(series),
    )


def _tier(tier: Mapping[str, Any], top1: Mapping[str, Any]) -> Point:
    low, high = (100 * top1["ratio_interval"][end] for end in ("low", "high"))
    return Point(100 * tier["bytes_share"], 100 * top1["ratio"], low, high, tier["name"])


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


_MAKERS = "`moesaic bench`, `bench serve`, `bench retention`, `moesaic eval --report` and `moesaic compress --report`"
_KINDS: tuple[tuple[tuple[str, ...], Make], ...] = (
    ((f"kind={KIND}",), under_load),
    ((f"kind={SERVED}",), as_served),
    ((f"kind={OPS}",), operations),
    (("tiers", "recipe", "stages"), _recipe),
    (("plan", "texts", "tasks"), _evaluation),
    (("bytes", "machine", "random_weights"), _suites),
)
