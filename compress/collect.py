"""All that a report of a compression shows, as plain values: its pages and pictures are made of these alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluate.compare import TOP1, compare_scores, verdict
from ..evaluate.provenance import provenance
from ..evaluate.results import as_json, comparison_json
from ..evaluate.score import Score
from ..evaluate.texts import EMBEDDED_TEXT
from ..models.checkpoint import Checkpoint, open_checkpoint
from ..models.threads import choose_threads, torch_threads
from .calibration import Calibration
from .controls import Control, Controls, check_groups, ffn_bytes, ffn_neurons, original_ffn_bytes
from .judge import Judge
from .material import Progress
from .pipeline import Announce, Compression

Report = dict[str, Any]


def collect(
    model: str | Path,
    done: Compression,
    controls: Sequence[str] = (),
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> Report:
    """The report of a finished compression of `model`, with these groups of controls (derive.GROUPS).

    Whatever was scored before is taken from the cache. Raises RecipeError for an unknown group, before any work.
    """
    check_groups(controls)
    source, finished = open_checkpoint(model), open_checkpoint(done.out)
    say = progress or (lambda what, done, total: None)
    with torch_threads(choose_threads(None, source.weight_bytes)):
        judge = Judge(source, done.recipe.evaluation, say)
        original = judge.original_score()
        scores = judge.scores("the result", finished, finished.tiers)
        company = Controls(source, done.recipe, finished, scores, judge, say, announce)
        found = list(company.run(controls))
        teller = _Teller(source, original, scores, original_ffn_bytes(source, done.recipe, judge), done.recipe.seed)
    plain: Report = as_json({
        "model": Path(model).name,
        "recipe": done.recipe.model_dump(),
        "recipe_sha256": done.recipe.sha256(),
        "evaluation": {
            "text": [Path(file).name for file in done.recipe.evaluation.text or [EMBEDDED_TEXT]],
            "documents": len(original.documents), "tokens": original.total.num_tokens,
        },
        "calibration": _calibration(source, done),
        "provenance": provenance(),
        "original": {
            "weight_bytes": source.weight_bytes, "ffn_bytes": teller.whole, "figures": original.summary(),
            "score": original.to_json(),
        },
        "stages": _stages(finished),
        "tiers": [teller.tier(finished, name) for name in finished.tiers],
        "control_groups": list(controls),
        "controls": [teller.control(each) for each in found],
    })  # fmt: skip
    return plain


class _Teller:
    """Puts scores beside the original's and beside each other. whole: the bytes that shares of FFNs are shares of."""

    def __init__(self, source: Checkpoint, original: Score, tiers: Mapping[str, Score], whole: int, seed: int) -> None:
        self._original, self._tiers, self.whole, self._seed = original, tiers, whole, seed
        self._neurons = ffn_neurons(source.spec)

    def tier(self, finished: Checkpoint, name: str) -> Report:
        record = next((each for each in finished.record.tiers if each.name == name), None)
        score = self._tiers[name]
        computed = score.ffn_shares[1] * ffn_neurons(finished.spec)
        return {
            "name": name,
            "share": record.share if record else 1.0,
            "calibrated": dict(record.calibrated) if record else {},
            **self._scored(score, score.ffn_shares[0] * ffn_bytes(finished), computed),
        }

    def control(self, control: Control) -> Report:
        about: Report = {
            "group": control.group,
            "name": control.name,
            "tier": control.tier,
            "recipe": control.recipe and control.recipe.model_dump(),
            "reason": control.reason,
        }
        if control.score is None:
            return about
        about |= self._scored(control.score, control.ffn_bytes, control.neurons)
        beside = self._tiers[control.tier] if control.tier else None
        return about | {"tier_against_it": self._compared(beside, control.score) if beside else None}

    def _scored(self, score: Score, read: float, computed: float) -> Report:
        figures = score.summary()
        return {
            "ffn_bytes": read,
            "ffn_share": read / self.whole,
            "neurons_share": computed / self._neurons,
            "relative_top1": _quotient(figures[TOP1], self._original.top1_accuracy),
            "figures": figures,
            "score": score.to_json(),
            "against_original": self._compared(score, self._original),
        }

    def _compared(self, ours: Score, theirs: Score) -> Report:
        over, comparisons = compare_scores(ours, theirs, self._seed)
        told = {key: {**comparison_json(each), "verdict": verdict(key, each)} for key, each in comparisons.items()}
        return {"over": over, **told}


def _calibration(source: Checkpoint, done: Compression) -> Report:
    settings = done.recipe.calibration
    calibration = Calibration(settings, source)
    return {"text": calibration.names, "sequences": settings.sequences, "length": calibration.length}


def _stages(finished: Checkpoint) -> list[Report]:
    """What the result's record says of them; those before the recipe's own have no figures."""
    return [
        {
            "name": stage.name, "settings": dict(stage.settings), "seed": stage.seed, "notes": dict(stage.notes),
            "weight_bytes": stage.measured.get("weight_bytes"), "figures": stage.measured.get("result"),
        }
        for stage in finished.record.stages
    ]  # fmt: skip


def _quotient(value: float, whole: float) -> float | None:
    return value / whole if whole else None
