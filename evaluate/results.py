"""What came of an evaluation, and the same as plain values for JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .footprint import Footprint
from .overlap import Overlap
from .plan import ORIGINAL, Plan
from .provenance import command_line
from .score import Score
from .statistics import Comparison
from .tasks.items import TaskScore


@dataclass(frozen=True, slots=True)
class TextResult:
    """Scores on one text by whose they are (MODEL, ORIGINAL, FLOOR); comparisons of MODEL with ORIGINAL."""

    name: str
    scores: Mapping[str, Score]
    compared_over: str = ""
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    overlap: Overlap | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """Scores on one task; comparison of MODEL's share of right answers with ORIGINAL's."""

    name: str
    scores: Mapping[str, TaskScore]
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that came of a plan."""

    plan: Plan
    texts: tuple[TextResult, ...]
    tasks: tuple[TaskResult, ...]
    footprints: Mapping[str, Footprint]

    def to_json(self) -> dict[str, Any]:
        """Plain values, the sums of each document included."""
        plan = {key: str(each) if isinstance(each, Path) else each for key, each in asdict(self.plan).items()}
        plan |= {key: [str(each) for each in plan[key]] for key in ("text", "tasks", "training_text")}
        values = {
            "command": command_line(),
            "plan": plan,
            "footprint": {name: asdict(each) for name, each in self.footprints.items()},
            "texts": [_text_json(each) for each in self.texts],
            "tasks": [_task_json(each) for each in self.tasks],
        }
        plain: dict[str, Any] = as_json(values)
        return plain


def _text_json(result: TextResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "scores": {name: {**score.summary(), "per_document": score.rows()} for name, score in result.scores.items()},
        "compared_over": result.compared_over,
        "comparisons": {name: comparison_json(each) for name, each in result.comparisons.items()},
        "overlap_with_training_text": result.overlap and {**asdict(result.overlap), "share": result.overlap.share},
    }


def _task_json(result: TaskResult) -> dict[str, Any]:
    original = result.scores.get(ORIGINAL)
    scores: dict[str, Any] = {}
    for name, score in result.scores.items():
        scores[name] = {**score.summary(), "correct": score.correct, "answers": score.answers, "nats": score.nats}
        if original:
            scores[name]["agreement"] = score.agreement(original)
    return {
        "name": result.name,
        "scores": scores,
        "comparison": result.comparison and comparison_json(result.comparison),
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values, the sign included."""
    return {**asdict(comparison), "sign": comparison.sign}


def as_json(value: Any) -> Any:
    """Plain values for JSON: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
