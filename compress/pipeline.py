"""`moesaic compress`: stages in order, the result written whole or not at all, and measured beside the original."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..evaluate.score import Score, encode_documents, score_documents
from ..evaluate.texts import embedded_text, read_documents
from ..models.checkpoint import Checkpoint, load_transformer, open_checkpoint, read_tensors, sha256_of
from ..models.errors import CheckpointError
from ..models.record import RECORD_NAME, Record, StageRecord
from ..models.spec import TransformerSpec, spec_overrides
from ..models.threads import choose_threads, torch_threads
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from ..models.writer import new_directory, write_config, write_weights
from .material import Material
from .recipe import Recipe, read_recipe

Progress = Callable[[str, int, int], None]  # what is being done, done, of how many


@dataclass(frozen=True, slots=True)
class Compression:
    """What came of a recipe. Bytes are of weights on disk; scores are empty on a dry run."""

    out: Path
    recipe: Recipe
    bytes_before: int
    bytes_after: int
    original: Mapping[str, float | int]
    result: Mapping[str, float | int]
    already_there: bool = False


def compress(
    model: str | Path,
    out: str | Path,
    recipe: str | Path | Mapping[str, Any] = "int8",
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Compression:
    """Runs a recipe on a model directory or short name and writes a new directory.

    recipe is a shipped name, a YAML file or a mapping. A finished `out` of the same input and recipe is left as it
    is. Raises SetupError (RecipeError, CheckpointError, TextError) before anything is written; afterwards `out` is
    whole or absent.
    """
    steps, target = read_recipe(recipe), Path(out)
    source = open_checkpoint(model)
    input_sha256 = content_sha256(source)
    if os.path.lexists(target):
        return _finished_before(source, target, steps, input_sha256)
    material = Material(source, source.spec, lambda: read_tensors(source))
    for _, _, stage in steps.built_stages():
        stage.check(material)
        material = stage.run(material)
    encoded = _encoded(source, steps)
    planned = weight_bytes(material.spec, source)
    if dry_run:
        return Compression(target, steps, source.weight_bytes, planned, {}, {})
    _check_disk(target, planned)
    return _written(material, target, steps, input_sha256, encoded, progress or (lambda what, done, total: None))


def content_sha256(checkpoint: Checkpoint) -> str:
    """One hash of config and weights: the identity of a model as an input."""
    digest = hashlib.sha256((checkpoint.path / "config.json").read_bytes())
    for file in checkpoint.files:
        digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def weight_bytes(spec: TransformerSpec, source: Checkpoint) -> int:
    """Bytes that a spec's weights take on disk, dense ones in the dtypes of the source."""
    with torch.device("meta"):
        tensors = Transformer(spec).state_dict()
    return sum(
        source.entries[name].num_bytes if name in source.entries and value.dtype != torch.int8 else value.nbytes
        for name, value in tensors.items()
    )


def _finished_before(source: Checkpoint, target: Path, recipe: Recipe, input_sha256: str) -> Compression:
    record = Record.read(target) if target.is_dir() else Record()
    last = record.stages[-1] if record.stages else StageRecord("", {}, 0, "")
    same = (record.recipe_sha256, last.input_sha256) == (recipe.sha256(), input_sha256)
    if not same or not {"original", "result"} <= last.measured.keys():
        raise CheckpointError(
            f"{target} exists and is not the result of this recipe on this model; remove it or name another directory"
        )
    result = open_checkpoint(target)
    record.verify(target, result.files)
    measured = last.measured
    return Compression(
        target, recipe, source.weight_bytes, result.weight_bytes, measured["original"], measured["result"],
        already_there=True,
    )  # fmt: skip


def _check_disk(target: Path, planned: int) -> None:
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < planned * 1.01 + (1 << 20):
        raise CheckpointError(f"{target} needs {planned:,} bytes, {free:,} are free in {folder}; make room first")


def _encoded(source: Checkpoint, recipe: Recipe) -> list[list[int]]:
    """Token ids of the text that the recipe is judged on."""
    wanted = recipe.evaluation
    documents = read_documents(wanted.text or [embedded_text()], wanted.documents)
    return encode_documents(documents, Tokenizer.open(source.path), wanted.truncate, source.spec.vocab_size)


def _written(
    material: Material,
    target: Path,
    recipe: Recipe,
    input_sha256: str,
    encoded: Sequence[Sequence[int]],
    progress: Progress,
) -> Compression:
    source = material.source
    with new_directory(target) as folder:
        names = write_weights(folder, _counted(material, progress), source.family.their_name)
        write_config(folder, source, material.spec)
        record = _record(material, recipe, input_sha256, {name: sha256_of(folder / name) for name in names})
        _save(record, folder)
        original, result = _measured(source, open_checkpoint(folder), encoded, progress)
        _save(record.with_measured({"original": original.summary(), "result": result.summary()}), folder)
    after = open_checkpoint(target).weight_bytes
    return Compression(target, recipe, source.weight_bytes, after, original.summary(), result.summary())


def _record(material: Material, recipe: Recipe, input_sha256: str, files: Mapping[str, str]) -> Record:
    source = material.source
    done = [StageRecord(name, settings, recipe.seed, input_sha256) for name, settings, _ in recipe.built_stages()]
    overrides = spec_overrides(material.spec, source.default_spec)
    return Record(overrides, (*source.record.stages, *done), files, recipe.sha256())


def _counted(material: Material, progress: Progress) -> Any:
    total = len(material.source.entries)
    done = 0
    for name, tensor in material.tensors():
        yield name, tensor
        done += not name.endswith("_scale")
        progress("compressing tensors", done, total)


def _save(record: Record, folder: Path) -> None:
    (folder / RECORD_NAME).write_text(record.to_json(version("moesaic")))


def _measured(
    source: Checkpoint, result: Checkpoint, encoded: Sequence[Sequence[int]], progress: Progress
) -> tuple[Score, Score]:
    """Scores of the original and of the result on the same text, the result compared with the original."""
    with torch_threads(choose_threads(None, source.weight_bytes)):
        original, model = (load_transformer(each, torch.device("cpu")) for each in (source, result))
        before = score_documents(original, encoded, progress=lambda n, of: progress("scoring the original", n, of))
        after = score_documents(model, encoded, original, lambda n, of: progress("scoring the result", n, of))
    return before, after
