"""All that a report of a compression shows, as plain values: its pages and pictures are made of these alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...compress.calibration import Calibration, embedded_text
from ...compress.judge import Judge
from ...compress.pipeline import Compression
from ...compress.recipe import Recipe
from ...compress.run import Announce
from ...evaluate.compare import TOP1, compare_scores, verdict
from ...evaluate.overlap import measure_overlap
from ...evaluate.provenance import provenance
from ...evaluate.results import as_json, comparison_json
from ...evaluate.score import Score
from ...evaluate.speed import Contestant, decode_speeds
from ...evaluate.texts import EMBEDDED_TEXT, read_documents
from ...models.checkpoint import Checkpoint, load_transformer, open_checkpoint
from ...models.devices import choose_device
from ...models.errors import RecipeError
from ...models.progress import Progress
from ...models.spec import FULL
from ...models.threads import choose_threads, torch_threads
from .derive import ALONE, groups_for
from .run import Control, Controls, ffn_neurons, is_ffn_weight, original_tier_bytes, tier_bytes

Report = dict[str, Any]
_FORMATS = {"I8": "int8", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


def collect(
    model: str | Path,
    done: Compression,
    controls: Sequence[str] = (),
    progress: Progress | None = None,
    announce: Announce | None = None,
    speed_rounds: int = 0,
    command: str = "",
) -> Report:
    """The report of a finished compression of `model`, with these groups of controls (derive.GROUPS).

    Whatever was scored before is taken from the cache; speed is measured anew, in so many rounds. command: what makes
    this report again. Raises RecipeError, before any work, for groups
    that do not exist or say nothing of this recipe.
    """
    groups_for(done.recipe, controls)
    source, finished = open_checkpoint(model), open_checkpoint(done.out)
    of_neurons = sorted(set(controls) - {ALONE})
    if finished.spec.is_graded and of_neurons:
        raise RecipeError(
            f"controls: {', '.join(of_neurons)} leave out neurons, and the tiers of this result leave out bits; "
            f"choose {ALONE}, or compare by `moesaic retention`"
        )
    say = progress or (lambda what, done, total: None)
    with torch_threads(choose_threads(None, source.weight_bytes)):
        judge = Judge(source, done.recipe.evaluation, say, choose_device(done.recipe.device))
        original = judge.original_score()
        scores = judge.scores("the result", finished, finished.tiers)
        company = Controls(source, done.recipe, finished, scores, judge, say, announce)
        found = list(company.run(controls))
        speed = _speed(finished, judge, speed_rounds, say) if speed_rounds else None
        teller = _Teller(source, original, scores, original_tier_bytes(source, done.recipe, judge), done.recipe.seed)
    plain: Report = as_json({
        "model": Path(model).name,
        "command": command,
        "notices": list(done.notices),
        "tasks": dict(done.tasks),
        "recipe": done.recipe.model_dump(),
        "recipe_sha256": done.recipe.sha256(),
        "evaluation": {
            "text": [Path(file).name for file in done.recipe.evaluation.text or [EMBEDDED_TEXT]],
            "documents": len(original.documents), "tokens": original.total.num_tokens,
            "sha256": judge.text_sha256, "overlap_with_calibration": _overlap(judge, done.recipe),
        },
        "calibration": _calibration(source, done),
        "provenance": provenance(),
        "original": {
            "weight_bytes": source.weight_bytes, "tier_bytes": teller.whole, "figures": original.summary(),
            "score": original.to_json(),
        },
        "ffn_format": _ffn_format(finished),
        "governed": "graded linears" if finished.spec.is_graded else "FFNs",
        "speed": speed,
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
        computed = score.shares[1] * ffn_neurons(finished.spec)
        return {
            "name": name,
            "share": record.share if record else 1.0,
            "calibrated": dict(record.calibrated) if record else {},
            **self._scored(score, score.shares[0] * tier_bytes(finished), computed),
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
        about |= self._scored(control.score, control.tier_bytes, control.neurons)
        beside = self._tiers[control.tier] if control.tier else None
        return about | {"tier_against_it": self._compared(beside, control.score) if beside else None}

    def _scored(self, score: Score, read: float, computed: float) -> Report:
        figures = score.summary()
        return {
            "tier_bytes": read,
            "bytes_share": read / self.whole,
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


def _speed(finished: Checkpoint, judge: Judge, rounds: int, say: Progress) -> Report:
    """Tokens per second of the original and of each tier, taken in turn."""
    model = load_transformer(finished, torch.device("cpu"))
    contestants = {"original": Contestant(judge.load_original())}
    contestants |= {name: Contestant(model, finished.operating_point(name)) for name in finished.tiers}
    found = decode_speeds(contestants, judge.encoded, rounds, lambda n, of: say("rounds of tokens per second", n, of))
    full = {each.batch: each.tokens_per_second for each in found[FULL]}
    rows = [
        {"name": name, **asdict(each), "times_full": each.tokens_per_second / full[each.batch]}
        for name, speeds in found.items()
        for each in speeds
    ]
    return {"rounds": rounds, "threads": torch.get_num_threads(), "rows": rows}


def _overlap(judge: Judge, recipe: Recipe) -> float:
    """The share of the evaluation's words that lie in runs which the calibration text has too."""
    seen = read_documents(recipe.calibration.text or [embedded_text()])
    return measure_overlap(judge.documents, seen).share


def _ffn_format(finished: Checkpoint) -> str:
    """The format that holds most of the FFNs' bytes."""
    sizes: dict[str, int] = {}
    for name, entry in finished.entries.items():
        if is_ffn_weight(name):
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.num_bytes
    found = max(sizes, key=lambda each: sizes[each])
    return _FORMATS.get(found, found)


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
