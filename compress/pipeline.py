"""`moesaic compress`: a recipe's stages in order, the result written whole or not at all, and measured."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.checkpoint import Checkpoint, open_checkpoint
from ..models.errors import CheckpointError
from ..models.files import check_new, require_space
from ..models.progress import Progress
from ..models.record import Record, StageRecord
from ..models.spec import TransformerSpec
from ..models.threads import choose_threads, torch_threads
from .encoders import check_encoder_recipe, write_encoder
from .identity import content_sha256
from .recipe import Recipe, read_recipe
from .rival import rival_notice
from .run import Announce, Estimate, Run
from .sourced import write_sourced
from .stage import FewTokensWarning


@dataclass(frozen=True, slots=True)
class Compression:
    """What came of a recipe. Bytes are of weights on disk; scores are empty on a dry run.

    tiers: the score at each tier of the result, by name. notices: what one must know of it before any figure.
    tasks: by the recipe's tasks, the figures of the original and of each tier. specs: of a dry run, before and after.
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
    specs: tuple[TransformerSpec, ...] = ()
    notices: tuple[str, ...] = ()
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def compress(
    model: str | Path,
    out: str | Path,
    recipe: str | Path | Mapping[str, Any] | Recipe = "int8",
    progress: Progress | None = None,
    dry_run: bool = False,
    announce: Announce | None = None,
    rival: bool = True,
) -> Compression:
    """Runs a recipe on a model directory or short name and writes a new directory.

    recipe is a shipped name, a YAML file, a mapping or a Recipe. A finished `out` of the same input and recipe is left
    as it is; stages that an earlier run finished are taken from the cache. `announce` hears of each other stage before
    it begins. rival: whether a recipe whose stages lost something is held against itself without them, which may take
    as long again. Raises SetupError (RecipeError, CheckpointError, TextError) before anything is written; afterwards
    `out` is whole or absent.
    """
    steps, target = read_recipe(recipe), Path(out).expanduser()
    source = open_checkpoint(model)
    if os.path.lexists(target):
        return _finished_before(source, target, steps)
    check_new(target)
    say = progress or (lambda what, done, total: None)
    if not source.spec.continues_text or source.spec.reads_sources:
        check_encoder_recipe(steps)
    run = Run(source, steps, say, announce)
    with torch_threads(choose_threads(None, source.weight_bytes)):
        few = run.few_tokens()
        if few:
            warnings.warn(few, FewTokensWarning, stacklevel=2)
        if dry_run:
            sizes, specs = (source.weight_bytes, run.estimates[-1].bytes), (source.spec, run.planned[-1])
            return Compression(target, steps, *sizes, {}, {}, estimates=run.estimates, specs=specs)
        require_space(target, run.estimates[-1].bytes)
        run.check_disk()
        if not source.spec.continues_text:
            return _compression(source, target, steps, write_encoder(run, source, target, say))
        if source.spec.reads_sources:
            return _compression(source, target, steps, write_sourced(run, source, target, say))
        made = run.make()
        notices = [each for each in (rival and rival_notice(run, made), few) if each]
        return _compression(source, target, steps, run.write(target, made, notices))


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
    return _compression(source, target, recipe, last.measured, already_there=True)


def _compression(
    source: Checkpoint, target: Path, recipe: Recipe, measured: Mapping[str, Any], already_there: bool = False
) -> Compression:
    sizes = (source.weight_bytes, open_checkpoint(target).weight_bytes)
    return Compression(
        target, recipe, *sizes, measured["original"], measured["result"], already_there, measured.get("tiers", {}),
        notices=tuple(measured.get("notices", ())), tasks=measured.get("tasks", {}),
    )  # fmt: skip
