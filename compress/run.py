"""One recipe on one model: what its stages will take, and each of them run once, its result kept by its hash."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..evaluate.score import Score
from ..models.checkpoint import Checkpoint, open_checkpoint
from ..models.devices import choose_device, memory_named
from ..models.errors import RecipeError
from ..models.files import require_space
from ..models.host_memory import give_back_freed_memory, give_back_large_pieces_at_once
from ..models.progress import Progress
from ..models.record import StageRecord
from ..models.spec import FULL, TransformerSpec
from .calibration import Calibration
from .identity import content_sha256
from .judge import Judge
from .material import Workshop, load_exact
from .output import write_result, write_stage
from .recipe import DEVICE_WAY_OUT, Recipe
from .sizes import weight_bytes
from .stage import Stage
from .stage_cache import finish, on_other, scratch_folder, stage_key, stage_lock, stages_folder, touch

_PROBE_TOKENS = 128
_PROBES = 4


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage will take: seconds on this machine, bytes on disk of what it makes, and of memory beside Python and
    torch; 0 where it does not say.
    """

    stage: str
    seconds: float
    bytes: int
    done: bool  # an earlier run has finished it
    memory: int = 0


Announce = Callable[[Estimate], None]


@dataclass(frozen=True, slots=True)
class Made:
    """What came of all stages. after: the score after each of them, at the full tier; tiers: of the result, by name."""

    checkpoint: Checkpoint
    original: Score
    after: tuple[Score, ...]
    weight_bytes: tuple[int, ...]  # after each stage
    tiers: Mapping[str, Score]
    tasks: Mapping[str, Any]


class Run:
    """One recipe on one model; judge and calibration are the recipe's own, from another run of the same texts.

    Raises RecipeError where its stages make no sense on it, TextError for its texts.
    """

    def __init__(
        self,
        source: Checkpoint,
        recipe: Recipe,
        progress: Progress,
        announce: Announce | None = None,
        judge: Judge | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        give_back_large_pieces_at_once()
        self._source, self.recipe, self._progress, self._announce = source, recipe, progress, announce
        self._input_sha256 = content_sha256(source)
        self.stages = recipe.all_stages
        self._calibration = calibration or Calibration(recipe.calibration, source)
        self.planned = self._plan()
        self.device = choose_device(recipe.device)
        self.judge = judge or Judge(source, recipe.evaluation, progress, self.device)
        self._keys = self._chain()

    def _plan(self) -> list[TransformerSpec]:
        """The spec after each stage, as far as it can be known; refuses what makes no sense."""
        spec, planned = self._source.spec, []
        if spec.num_tiers > 1:
            raise RecipeError(
                f"{self._source.path.name} has experts whose thresholds fit its weights as they are; "
                "start from the model before it was MoEfied"
            )
        for stage in self.stages:
            if spec.is_mixture and not stage.takes_mixtures:
                raise RecipeError(
                    f"{stage.name}: the FFNs of this model are mixtures of experts already, which it does not change; "
                    "a recipe for such a model has distill, moefy and quantize"
                )
            if spec.causal and not spec.continues_text and stage.name != "quantize":
                raise RecipeError(
                    f"{stage.name}: this model is {spec.kind}, which it does not change where tokens look back only; a "
                    "recipe for such a model has quantize"
                )
            spec = stage.plan(spec)
            planned.append(spec)
        for stage, own in zip(self.stages, planned, strict=True):
            stage.check_end(own, spec)
        return planned

    def _chain(self) -> list[str]:
        before, keys = self._input_sha256, list[str]()
        for stage in self.stages:
            text = self._calibration.sha256 if stage.passes(self._source.spec, self._calibration) else ""
            given = {"settings": stage.values, "wide": self._is_rounded_later(len(keys))}
            before = stage_key(before, stage.name, given | on_other(self.device), self.recipe.seed, text, stage.sources)
            keys.append(before)
        return keys

    def _is_rounded_later(self, index: int) -> bool:
        return any(stage.rounds_weights for stage in self.stages[index + 1 :])

    @cached_property
    def estimates(self) -> tuple[Estimate, ...]:
        """Time and size of every stage, from a short probe of the model where one will take long."""
        done = [(stages_folder() / key).is_dir() for key in self._keys]
        passes = [0.0 if is_done else tokens for is_done, (_, tokens) in zip(done, self.efforts, strict=True)]
        each = self.seconds_per_token() if any(passes) else 0.0
        sizes = [weight_bytes(spec, self._source) for spec in self.planned]
        memory = [self._memory(*each) for each in zip(self.stages, self.planned, sizes, strict=True)]
        rows = zip(self.stages, passes, sizes, done, memory, strict=True)
        return tuple(Estimate(stage.name, n * each, b, is_done, held) for stage, n, b, is_done, held in rows)

    def _memory(self, stage: Stage, spec: TransformerSpec, size: int) -> int:
        return stage.memory(self._source.weight_bytes, size, spec, self._calibration)

    @cached_property
    def efforts(self) -> tuple[tuple[str, float], ...]:
        """The key of each stage, and about how many tokens' forward passes it takes where it is not done yet."""
        passes = [stage.passes(spec, self._calibration) for stage, spec in zip(self.stages, self.planned, strict=True)]
        return tuple(zip(self._keys, passes, strict=True))

    def few_tokens(self) -> str:
        """What the calibration text is too short for, in a sentence with the way out; "" where it is long enough."""
        planned = zip(self.stages, self.planned, strict=True)
        fits = [(stage.name, fit) for stage, spec in planned for fit in stage.fits(spec)]
        short = [f"{name}: {fit}" for name, fit in fits if fit.tokens > self.calibration_tokens] if fits else []
        if not short:
            return ""
        wanted = max(fit.tokens for _, fit in fits)
        enough = -(-wanted // self._calibration.length)
        way_out = f"raise calibration.sequences to {enough:,}"
        if self.recipe.calibration.sequences > len(self._calibration.windows):
            way_out = f"the text has no more, so give longer text, enough for {enough:,} windows"
        return (
            f"calibrated on {self.calibration_tokens:,} tokens of {self._calibration.names}, too few for "
            f"{'; '.join(short)}; {way_out}"
        )

    @property
    def calibration_tokens(self) -> int:
        return self._calibration.windows.numel()

    def seconds_per_token(self) -> float:
        """Times a forward pass of the original on this machine: the best of a few, since other work slows some."""
        model = load_exact(self._source, self.device)
        ids = self._calibration.windows[:1, :_PROBE_TOKENS].to(self.device)
        reads = model if model.encoder is None else model.encoder  # all that a window goes through
        taken = []
        with torch.inference_mode():
            for _ in range(_PROBES):
                began = time.perf_counter()
                reads(ids).flatten()[0].item()  # a GPU is waited for
                taken.append(time.perf_counter() - began)
        del model, reads
        give_back_freed_memory()
        return min(taken) / ids.shape[1]

    def check_disk(self) -> None:
        """Raises OutputError where there is no room for the stages that are not done yet."""
        require_space(stages_folder() / "new", sum(each.bytes for each in self.estimates if not each.done))

    def checkpoint(self) -> Checkpoint:
        """The model after the last stage, as it lies among the finished stages. Scores nothing."""
        self.check_disk()
        current = self._source
        for i, stage in enumerate(self.stages):
            current = self._run_stage(i, stage, current)
        return current

    def make(self) -> Made:
        """Runs what is not done yet, and scores the model after each stage; after the last one at each tier."""
        original, after, current = self.judge.original_score(), list[Score](), self._source
        tiers: dict[str, Score] = {}
        sizes = []
        for i, stage in enumerate(self.stages):
            current = self._run_stage(i, stage, current)
            last = i == len(self.stages) - 1
            tiers = self.judge.scores(f"after {stage.name}", current, current.tiers if last else [FULL])
            after.append(tiers[FULL])
            sizes.append(current.weight_bytes)
        tasks = self.judge.tasks(current, self.recipe.seed)
        return Made(current, original, tuple(after), tuple(sizes), tiers, tasks)

    def write(self, target: Path, made: Made, notices: Sequence[str]) -> Mapping[str, Any]:
        """Writes the result; what was measured of it: original, result, tiers, and what must be known of it first."""
        measured: list[dict[str, Any]] = [
            {"result": score.summary(), "weight_bytes": size}
            for score, size in zip(made.after, made.weight_bytes, strict=True)
        ]
        measured[-1] |= {"original": made.original.summary()}
        if len(made.tiers) > 1:
            measured[-1] |= {"tiers": {name: score.summary() for name, score in made.tiers.items() if name != FULL}}
        if made.tasks:
            measured[-1] |= {"tasks": dict(made.tasks)}
        if notices:
            measured[-1] |= {"notices": list(notices)}
        record = made.checkpoint.record.with_measured(measured)
        write_result(target, self._source, made.checkpoint, record, self.recipe.sha256(), self._progress)
        return measured[-1]

    @property
    def changing(self) -> list[str]:
        """The names of its stages that make another model."""
        return list(dict.fromkeys(stage.name for stage in self.stages if stage.changes_model))

    def without_changes(self) -> "Run | None":
        """The same recipe without the stages that make another model, on the same texts; None where nothing is left, or
        what is left makes no sense on this model.
        """
        left = [stage for stage in self.recipe.stages if not stage.changes_model]
        if not left:
            return None
        rest = self.recipe.model_copy(update={"stages": left})
        say, name = self._announce, f"without {' and '.join(self.changing)}"
        announce: Announce | None = say and (lambda each: say(replace(each, stage=f"{each.stage} {name}")))
        try:
            return Run(self._source, rest, self._progress, announce, self.judge, self._calibration)
        except RecipeError:
            return None

    def _run_stage(self, index: int, stage: Stage, before: Checkpoint) -> Checkpoint:
        key = self._keys[index]
        folder = stages_folder() / key
        with stage_lock(key):
            if not folder.is_dir():
                if self._announce:
                    self._announce(self.estimates[index])
                shop = Workshop(
                    self._source, self._calibration, self.recipe.seed, scratch_folder(key), self._progress, self.device,
                    wide=self._is_rounded_later(index),
                )  # fmt: skip
                with memory_named(stage.name, DEVICE_WAY_OUT):
                    self._make(folder, stage, before, shop)
                finish(key)
            touch(folder)
        return open_checkpoint(folder)

    def _make(self, folder: Path, stage: Stage, before: Checkpoint, shop: Workshop) -> None:
        material = stage.run(before, shop)
        done = StageRecord(stage.name, stage.values, self.recipe.seed, self._input_sha256, notes=material.notes)
        write_stage(folder, self._source, before, material, done)
