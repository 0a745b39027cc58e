"""What an evaluation on pairs gave, as a table, as JSON, and as the files of a report."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..models.extras import NO_BLEU
from ..models.files import write_files
from .pages import render
from .pairs import EXACT, PairScore
from .plan import MODEL, ORIGINAL
from .provenance import command_line
from .quality import BLEU, CHRF
from .report import bars
from .results import as_json, comparison_json
from .statistics import Comparison

_COLUMNS = {
    "nats per token": ("nats_per_token", "{:.6f}"), "perplexity": ("perplexity", "{:.4f}"),
    "top-1 accuracy": ("top1_accuracy", "{:.2%}"), "exact match": (EXACT, "{:.2%}"), "BLEU": (BLEU, "{:.2f}"),
    "chrF": (CHRF, "{:.2f}"),
}  # fmt: skip
_NAMES = {"perplexity": "nats per token", "top1_accuracy": "top-1 accuracy", BLEU: "BLEU", CHRF: "chrF"}


@dataclass(frozen=True, slots=True)
class PairEvaluation:
    """Scores of a model, and of an original where there is one, on the same pairs; model and against: as they were
    named.
    """

    model: str
    against: str | None
    scores: Mapping[str, PairScore]
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the model's own figures at the top, each answer included."""
        found = {name: _score_json(score) for name, score in self.scores.items()}
        values: dict[str, Any] = {
            "command": command_line(), "model": self.model, "against": self.against,
            **self.scores[MODEL].summary(), "scores": found,
            "comparisons": {name: comparison_json(each) for name, each in self.comparisons.items()},
            "not_measured": [] if self.scores[MODEL].quality else [NO_BLEU],
        }  # fmt: skip
        plain: dict[str, Any] = as_json(values)
        return plain


def table(evaluation: PairEvaluation) -> tuple[list[str], list[list[str]]]:
    """Head and rows: whose they are, and a figure a column."""
    summaries = {name: score.summary() for name, score in evaluation.scores.items()}
    return ["", *_COLUMNS], [
        [name, *(form.format(found[key]) if key in found else "not measured" for key, form in _COLUMNS.values())]
        for name, found in summaries.items()
    ]


def notes(evaluation: PairEvaluation) -> list[str]:
    """What each difference from the original is worth, and what one must know to read the table."""
    said = [_difference(name, each) for name, each in evaluation.comparisons.items()]
    found = evaluation.scores[MODEL].summary()
    if evaluation.comparisons:
        said.append("in brackets 95 % intervals, a paired bootstrap over documents")
    if evaluation.scores[MODEL].quality is None:
        said.append(NO_BLEU)
    return [*said, f"scored on {found['tokens']:,} tokens of {found['documents']:,} answers"]


def write_report(evaluation: PairEvaluation, folder: Path) -> list[Path]:
    """Writes report.json, report.png and report.html; gives their paths. Needs matplotlib."""
    summaries = {name: score.summary() for name, score in evaluation.scores.items()}
    picture = bars([
        (title, {name: found[key] * (100 if "%" in form else 1) for name, found in summaries.items()})
        for title, (key, form) in _COLUMNS.items() if key in summaries[MODEL]
    ])  # fmt: skip
    title = f"{evaluation.model}: what was measured"
    page = render("evaluation", title, figures=table(evaluation), notes=notes(evaluation), picture=picture)
    return write_files(folder, {
        "report.json": json.dumps(evaluation.to_json(), indent=2).encode() + b"\n",
        "report.png": picture,
        "report.html": page.encode(),
    })  # fmt: skip


def _difference(name: str, found: Comparison) -> str:
    low, high = found.difference_interval.low, found.difference_interval.high
    what, told = _NAMES.get(name, name.replace("_", " ")), "" if found.sign else ", no difference shown"
    return f"{what} against the {ORIGINAL}: {found.difference:+.4f} ({low:+.4f} to {high:+.4f}){told}"


def _score_json(score: PairScore) -> dict[str, Any]:
    rows = [asdict(row) for row in score.rows]
    for row, answer in zip(rows, score.answers, strict=False):
        row["answer"] = answer
    signatures = {"counted_by": dict(score.quality.signatures)} if score.quality else {}
    return {**score.summary(), **signatures, "per_document": rows}
