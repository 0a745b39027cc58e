"""The end of a run on a model with an encoder: what was measured at each tier, in the record and in what is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..evaluate.compare import verdict
from ..evaluate.results import comparison_json
from ..evaluate.statistics import Comparison
from ..models.checkpoint import Checkpoint
from ..models.progress import Progress
from ..models.spec import FULL
from .output import write_result
from .run import Run


class Summed(Protocol):
    """A score in a few figures."""

    def summary(self) -> dict[str, float | int]: ...


def beside_original(score: Summed, compared: Mapping[str, Comparison]) -> dict[str, Any]:
    """The figures, and what the difference of each from the original's is worth."""
    differences = {name: comparison_json(each) | {"verdict": verdict(name, each)} for name, each in compared.items()}
    return {**score.summary(), "against_original": differences}


def write_measured(
    run: Run, source: Checkpoint, target: Path, figures: Mapping[str, Any], original: Summed, progress: Progress
) -> Mapping[str, Any]:
    """Writes the result; what was measured of it. figures: by tier, the full one among them."""
    last, few = run.checkpoint(), run.few_tokens()
    tiers = {tier: found for tier, found in figures.items() if tier != FULL}
    measured: list[dict[str, Any]] = [{} for _ in run.stages]
    measured[-1] = {"result": figures[FULL], "weight_bytes": last.weight_bytes, "original": original.summary()}
    measured[-1] |= ({"tiers": tiers} if tiers else {}) | ({"notices": [few]} if few else {})
    write_result(target, source, last, last.record.with_measured(measured), run.recipe.sha256(), progress)
    return measured[-1]
