"""`moesaic compress`: stages in order, each kept by its hash; the result written whole or not at all, and measured."""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..models.checkpoint import Checkpoint, load_transformer, open_checkpoint, read_tensors, sha256_of
from ..models.errors import CheckpointError, RecipeError
from ..models.progress import Progress
from ..models.record import RECORD_NAME, Record, StageRecord
from ..models.spec import FULL, TransformerSpec, spec_overrides
from ..models.threads import choose_threads, torch_threads
from ..models.transformer import Transformer
from ..models.writer import new_directory, write_config, write_weights
from .calibration import Calibration
from .identity import content_sha256
from .judge import Judge
from .material import Material, Workshop
from .moefy.calibrate import CalibrateStage, calibration_memory, grouping_memory
from .moefy.stage import MoefyStage
from .recipe import NamedStage, Recipe, read_recipe
from .stage_cache import finish, scratch_folder, stage_key, stage_lock, stages_folder, touch

_PROBE_TOKENS = 256
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
class Compression:
    """What came of a recipe. Bytes are of weights on disk; scores are empty on a dry run.

    tiers: the score at each tier of the result, by name.
    """

    out: Path
    recipe: Recipe
    bytes_before: int
    bytes_after: int
    original: Mapping[str, float | int]
    result: Mapping[str, float | int]
    already_there: bool = False
    tiers: Mapping[str, Mapping[str, float | int]] = field(default_factory=dict)
    estimates: tuple[Estimate, ...] = ()


def compress(
    model: str | Path,
    out: str | Path,
    recipe: str | Path | Mapping[str, Any] = "int8",
    progress: Progress | None = None,
    dry_run: bool = False,
    announce: Announce | None = None,
) -> Compression:
    """Runs a recipe on a model directory or short name and writes a new directory.

    recipe is a shipped name, a YAML file or a mapping. A finished `out` of the same input and recipe is left as it
    is; stages that an earlier run finished are taken from the cache. `announce` hears of each other stage before it
    begins. Raises SetupError (RecipeError, CheckpointError,
    TextError) before anything is written; afterwards `out` is whole or absent.
    """
    steps, target = read_recipe(recipe), Path(out)
    source = open_checkpoint(model)
    if os.path.lexists(target):
        return _finished_before(source, target, steps)
    run = Run(source, steps, progress or (lambda what, done, total: None), announce)
    with torch_threads(choose_threads(None, source.weight_bytes)):
        if dry_run:
            planned = run.estimates[-1].bytes
            return Compression(target, steps, source.weight_bytes, planned, {}, {}, estimates=run.estimates)
        _check_disk(target, run.estimates[-1].bytes)
        run.check_disk()
        return run.finished(target)


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
        self._source, self._recipe, self._progress, self._announce = source, recipe, progress, announce
        self._input_sha256 = content_sha256(source)
        self._stages = recipe.built_stages()
        self._calibration = calibration or Calibration(recipe.calibration, source)
        self.planned = self._plan()
        self._judge = judge or Judge(source, recipe.evaluation, progress)
        self._keys = self._chain()

    def _plan(self) -> list[TransformerSpec]:
        """The spec after each stage, as far as it can be known; refuses what makes no sense."""
        spec, planned = self._source.spec, []
        if spec.num_tiers > 1:
            raise RecipeError(
                f"{self._source.path.name} has experts whose thresholds fit its weights as they are; "
                "start from the model before it was MoEfied"
            )
        for stage in self._stages:
            spec = stage.work.plan(spec)
            planned.append(spec)
        return planned

    def _chain(self) -> list[str]:
        before, keys = self._input_sha256, list[str]()
        for stage in self._stages:
            text = self._calibration.sha256 if stage.work.passes(self._source.spec, self._calibration) else ""
            given = {"settings": stage.settings, "wide": self._is_rounded_later(len(keys))}
            before = stage_key(before, stage.name, given, self._recipe.seed, text)
            keys.append(before)
        return keys

    def _is_rounded_later(self, index: int) -> bool:
        return any(stage.name == "quantize" for stage in self._stages[index + 1 :])

    @cached_property
    def estimates(self) -> tuple[Estimate, ...]:
        """Time and size of every stage, from a short probe of the model where one will take long."""
        done = [(stages_folder() / key).is_dir() for key in self._keys]
        passes = [0.0 if is_done else tokens for is_done, (_, tokens) in zip(done, self.efforts, strict=True)]
        each = self.seconds_per_token() if any(passes) else 0.0
        sizes = [weight_bytes(spec, self._source) for spec in self.planned]
        memory = [self._memory(*each) for each in zip(self._stages, self.planned, sizes, strict=True)]
        rows = zip(self._stages, passes, sizes, done, memory, strict=True)
        return tuple(Estimate(stage.name, n * each, b, is_done, held) for stage, n, b, is_done, held in rows)

    def _memory(self, stage: NamedStage, spec: TransformerSpec, size: int) -> int:
        whole = self._source.weight_bytes
        if isinstance(stage.work, MoefyStage) and stage.work.settings.split_needs_text:
            return grouping_memory(whole, spec, self.calibration_tokens)
        if isinstance(stage.work, CalibrateStage):
            return calibration_memory(whole, size, spec, self.calibration_tokens)
        return 0

    @cached_property
    def efforts(self) -> tuple[tuple[str, float], ...]:
        """Of each stage its key, and about how many tokens' forward passes it takes where it is not done yet."""
        passes = [stage.work.passes(self._source.spec, self._calibration) for stage in self._stages]
        return tuple(zip(self._keys, passes, strict=True))

    @property
    def calibration_tokens(self) -> int:
        return self._calibration.windows.numel()

    def seconds_per_token(self) -> float:
        """Of a forward pass of the original on this machine: the best of a few, since other work slows some."""
        model = load_transformer(self._source, torch.device("cpu"))
        ids = self._calibration.windows[:1, :_PROBE_TOKENS]
        taken = []
        with torch.inference_mode():
            for _ in range(_PROBES):
                began = time.perf_counter()
                model(ids)
                taken.append(time.perf_counter() - began)
        return min(taken) / ids.shape[1]

    def check_disk(self) -> None:
        """Raises CheckpointError where there is no room for the stages that are not done yet."""
        _check_disk(stages_folder() / "new", sum(each.bytes for each in self.estimates if not each.done))

    def checkpoint(self) -> Checkpoint:
        """The model after the last stage, as it lies among the finished stages. Scores nothing."""
        self.check_disk()
        current = self._source
        for i, stage in enumerate(self._stages):
            current = self._run_stage(i, stage, current)
        return current

    def finished(self, target: Path) -> Compression:
        """Runs what is not done yet, measures, and writes the result."""
        original = self._judge.original()
        current = self._source
        measured: list[dict[str, Any]] = []
        for i, stage in enumerate(self._stages):
            current = self._run_stage(i, stage, current)
            last = i == len(self._stages) - 1
            scores = self._judge.tiers(f"after {stage.name}", current, current.tiers if last else [FULL])
            found = {"result": scores[FULL], "weight_bytes": current.weight_bytes}
            measured.append({"original": original, **found} if last else found)
        tiers = {tier: scores[tier] for tier in current.tiers[1:]}
        measured[-1] |= {"tiers": tiers} if tiers else {}
        self._write(current, target, measured)
        after = open_checkpoint(target).weight_bytes
        result = measured[-1]["result"]
        return Compression(target, self._recipe, self._source.weight_bytes, after, original, result, tiers=tiers)

    def _run_stage(self, index: int, stage: NamedStage, before: Checkpoint) -> Checkpoint:
        key = self._keys[index]
        folder = stages_folder() / key
        with stage_lock(key):
            if not folder.is_dir():
                if self._announce:
                    self._announce(self.estimates[index])
                shop = Workshop(
                    self._source, self._calibration, self._recipe.seed, scratch_folder(key), self._progress,
                    wide=self._is_rounded_later(index),
                )  # fmt: skip
                material = stage.work.run(before, shop)
                self._write_stage(folder, stage, before, material)
                finish(key)
            touch(folder)
        return open_checkpoint(folder)

    def _write_stage(self, folder: Path, stage: NamedStage, before: Checkpoint, material: Material) -> None:
        done = StageRecord(stage.name, stage.settings, self._recipe.seed, self._input_sha256, {}, material.notes)
        overrides = spec_overrides(material.spec, self._source.default_spec)
        record = Record(overrides, (*before.record.stages, done), {}, "", material.tiers)
        with new_directory(folder) as partial:
            names = write_weights(partial, material.tensors(), self._source.family.their_name)
            write_config(partial, self._source, material.spec)
            _save(record, partial, names)

    def _write(self, last: Checkpoint, target: Path, measured: Sequence[Mapping[str, Any]]) -> None:
        """The last stage's checkpoint as the result, with all that was measured."""
        record = last.record.with_measured(measured)
        total = len(last.entries)
        with new_directory(target) as partial:
            counted = _counted(last, self._progress, total)
            names = write_weights(partial, counted, self._source.family.their_name)
            write_config(partial, self._source, last.spec)
            _save(record, partial, names, self._recipe.sha256())


def weight_bytes(spec: TransformerSpec, source: Checkpoint, part: str = "") -> int:
    """Bytes that a spec's weights take on disk, dense ones in the dtypes of the source. part: of the names counted."""
    with torch.device("meta"):
        tensors = Transformer(spec).state_dict()
    wide = max((entry.num_bytes // max(1, _numel(entry.shape)) for entry in source.entries.values()), default=4)
    return sum(
        value.nbytes if value.dtype == torch.int8 else value.numel() * _width(name, wide, source)
        for name, value in tensors.items()
        if part in name
    )


def _numel(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _width(name: str, wide: int, source: Checkpoint) -> int:
    if name.endswith("_scale"):
        return 4
    entry = source.entries.get(name)
    return wide if entry is None or not _numel(entry.shape) else entry.num_bytes // _numel(entry.shape)


def _finished_before(source: Checkpoint, target: Path, recipe: Recipe) -> Compression:
    record = Record.read(target) if target.is_dir() else Record()
    last = record.stages[-1] if record.stages else StageRecord("", {}, 0, "")
    same = (record.recipe_sha256, last.input_sha256) == (recipe.sha256(), content_sha256(source))
    if not same or not {"original", "result"} <= last.measured.keys():
        raise CheckpointError(
            f"{target} exists and is not the result of this recipe on this model; remove it or name another directory"
        )
    result = open_checkpoint(target)
    record.verify(result.path, result.files)
    measured = last.measured
    return Compression(
        target, recipe, source.weight_bytes, result.weight_bytes, measured["original"], measured["result"],
        already_there=True, tiers=measured.get("tiers", {}),
    )  # fmt: skip


def _check_disk(target: Path, planned: int) -> None:
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < planned * 1.01 + (1 << 20):
        raise CheckpointError(f"{target} needs {planned:,} bytes, {free:,} are free in {folder}; make room first")


def _counted(checkpoint: Checkpoint, progress: Progress, total: int) -> Any:
    for done, (name, tensor) in enumerate(read_tensors(checkpoint), 1):
        yield name, tensor
        progress("writing tensors", done, total)


def _save(record: Record, folder: Path, names: Sequence[str], recipe_sha256: str = "") -> None:
    """moesaic.json, with the hashes of the weight files as they lie there."""
    whole = record.with_files({name: sha256_of(folder / name) for name in names}, recipe_sha256)
    (folder / RECORD_NAME).write_text(whole.to_json(version("moesaic")))
