"""An evaluation as a table, as JSON, as one picture, and as a page that holds both and needs no other file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.files import write_files
from .files import as_png
from .pages import render
from .plan import MODEL, ORIGINAL
from .results import Evaluation, TaskResult, TextResult
from .statistics import Comparison

_FIGURES = {
    "perplexity": "perplexity",
    "word_perplexity": "perplexity per word",
    "bits_per_byte": "bits per byte",
    "top1_accuracy": "next-token top-1",
    "kl_nats_per_token": "KL from the original, nats per token",
    "top1_agreement": "top-1 agreement with the original",
}
_SHARES = ("top1_accuracy", "top1_agreement")
_COLORS = ("#0f7b6c", "#8a8f98", "#d9a441")


def write_report(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Writes report.json, report.png and report.html; gives their paths. Needs matplotlib."""
    picture = draw(evaluation)
    return write_files(folder, {
        "report.json": json.dumps(evaluation.to_json(), indent=2).encode() + b"\n",
        "report.png": picture,
        "report.html": page(evaluation, picture).encode(),
    })  # fmt: skip


def rows(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: a figure each, whose they are side by side, and what the difference is worth."""
    whose = [*(text.scores for text in evaluation.texts), *(task.scores for task in evaluation.tasks)]
    names = list(dict.fromkeys(name for scores in whose for name in scores))
    found = [row for text in evaluation.texts for row in _text_rows(text, names)]
    found += [row for task in evaluation.tasks for row in _task_rows(task, names)]
    found += _footprint_rows(evaluation, names)
    compared = ORIGINAL in names
    head = ["", *names] + (["against the original (95 %)"] if compared else [])
    return head, [row if compared else row[:-1] for row in found]


def notes(evaluation: Evaluation) -> list[str]:
    """What one must know to read the table."""
    said = []
    for text in evaluation.texts:
        score = text.scores[MODEL]
        count = len(score.documents)
        said.append(f"{text.name}: {score.total.num_tokens:,} tokens of {count} document{'s' * (count != 1)}")
        if text.overlap:
            said.append(
                f"{text.name}: {text.overlap.share:.2%} of its words lie in runs of 13 words "
                "that the training text has too"
            )
        if ORIGINAL in text.scores:
            over = f"paired bootstrap over {text.compared_over}" if text.compared_over else "too short for an interval"
            said.append(f"{text.name}: {over}")
    if ORIGINAL in evaluation.footprints:
        said.append("an interval that holds 1 (of a ratio) or 0 (of a difference) shows no difference")
    return said


def page(evaluation: Evaluation, picture: bytes) -> str:
    """Self-contained HTML."""
    title = f"{evaluation.plan.model}: what was measured"
    return render("evaluation", title, figures=rows(evaluation), notes=notes(evaluation), picture=picture)


def draw(evaluation: Evaluation) -> bytes:
    """A PNG with a panel of bars for the perplexity of each text and the score of each task."""
    panels = [(f"{t.name}\nperplexity", {n: s.perplexity for n, s in t.scores.items()}) for t in evaluation.texts]
    panels += [(f"{t.name}\nscore, %", {n: 100 * s.score() for n, s in t.scores.items()}) for t in evaluation.tasks]
    return bars(panels)


def bars(panels: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """A PNG with a panel of bars for each title."""
    from matplotlib.figure import Figure

    columns = min(len(panels), 4)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.2 * lines), dpi=110, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, (title, values) in zip(grid, panels, strict=False):
        _bars(panel, title, values)
    for panel in grid[len(panels) :]:
        panel.set_axis_off()
    return as_png(figure)


def _bars(panel: Any, title: str, values: Mapping[str, float]) -> None:
    panel.set_title(title, loc="left", fontsize=10)
    bars = panel.bar([name.replace(" in ", "\nin ") for name in values], list(values.values()), color=_COLORS)
    panel.bar_label(bars, labels=[f"{value:,.4g}" for value in values.values()], padding=2)
    panel.margins(y=0.15)
    panel.set_yticks([])
    panel.spines[["top", "right", "left"]].set_visible(False)


def _text_rows(text: TextResult, names: Sequence[str]) -> list[list[str]]:
    summaries = {name: text.scores[name].summary() for name in text.scores}
    found = []
    for key, label in _FIGURES.items():
        if any(key in summary for summary in summaries.values()):
            cells = [_figure(key, summaries[name].get(key)) if name in summaries else "" for name in names]
            found.append([f"{text.name}: {label}", *cells, _difference(text.comparisons.get(key), key == "perplexity")])
    return found


def _figure(key: str, value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if key in _SHARES else f"{value:.6f}" if key.startswith("kl") else f"{value:,.4f}"


def _difference(comparison: Comparison | None, as_ratio: bool) -> str:
    if comparison is None:
        return ""
    if as_ratio:
        interval = comparison.ratio_interval
        shown = f"x{comparison.ratio:.4f} ({interval.low:.4f} to {interval.high:.4f})"
    else:
        interval = comparison.difference_interval
        shown = f"{comparison.difference:+.2%} ({interval.low:+.2%} to {interval.high:+.2%})"
    return shown if comparison.sign else f"{shown}, no difference shown"


def _task_rows(task: TaskResult, names: Sequence[str]) -> list[list[str]]:
    mine = task.scores[MODEL]
    found = []
    for rule in mine.correct:
        cells = [f"{task.scores[name].score(rule):.2%}" if name in task.scores else "" for name in names]
        quoted = task.comparison if rule == mine.rule else None
        found.append([f"{task.name}: {mine.num_items} items, {rule}", *cells, _difference(quoted, False)])
    above = [f"{task.scores[name].above_chance():.2%}" if name in task.scores else "" for name in names]
    found.append([f"{task.name}: above chance ({mine.chance:.1%})", *above, ""])
    if ORIGINAL in task.scores:
        same = [f"{task.scores[name].agreement(task.scores[ORIGINAL]):.2%}" for name in names]
        found.append([f"{task.name}: answers as the original", *same, ""])
    return found


def _footprint_rows(evaluation: Evaluation, names: Sequence[str]) -> list[list[str]]:
    costs = evaluation.footprints
    lines = {
        "MB on disk": {name: f"{cost.bytes_on_disk / 1e6:.4g}" for name, cost in costs.items()},
        "MB read per token": {name: f"{cost.bytes_read_per_token / 1e6:.4g}" for name, cost in costs.items()},
        "active MFLOPs per token": {name: f"{cost.active_flops_per_token / 1e6:.4g}" for name, cost in costs.items()},
        "tokens/s of scoring": {
            name: f"{cost.tokens_per_second:,.4g}" for name, cost in costs.items() if cost.tokens_per_second
        },
        "peak memory of all together, MB": {MODEL: f"{costs[MODEL].peak_memory_bytes / 1e6:.4g}"},
    }
    return [[label, *(cells.get(name, "") for name in names), ""] for label, cells in lines.items() if cells]
