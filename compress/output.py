"""A model as a directory, written whole or not at all: after a stage, and at the end."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ..models.checkpoint import Checkpoint, read_tensors, sha256_of
from ..models.errors import CheckpointError
from ..models.files import new_directory
from ..models.layout import Layout
from ..models.progress import Progress
from ..models.record import RECORD_NAME, Record, StageRecord
from ..models.spec import spec_overrides
from ..models.version import VERSION
from ..models.writer import write_config, write_weights
from .material import Material
from .sizes import weight_bytes


def write_stage(folder: Path, source: Checkpoint, before: Checkpoint, material: Material, done: StageRecord) -> None:
    """Writes what a stage made of `before`, with a record of all stages so far. source: what the recipe was given."""
    overrides = spec_overrides(material.spec, source.default_spec)
    record = Record(overrides, (*before.record.stages, done), {}, "", material.tiers)
    with new_directory(folder, weight_bytes(material.spec, source)) as partial:
        try:
            stored = Layout(source.family, material.spec).stored(material.tensors())
            names = write_weights(partial, stored, source.family.their_name)
        except CheckpointError as error:
            raise CheckpointError(f"{done.name}: {error}") from None
        write_config(partial, source, material.spec)
        save_record(record, partial, names)


def write_result(
    target: Path, source: Checkpoint, last: Checkpoint, record: Record, recipe_sha256: str, progress: Progress
) -> None:
    """The last stage's checkpoint as the result, with a record that has all that was measured."""
    with new_directory(target, last.weight_bytes) as partial:
        stored = Layout(source.family, last.spec).stored(_counted(last, progress))
        names = write_weights(partial, stored, source.family.their_name)
        write_config(partial, source, last.spec)
        save_record(record, partial, names, recipe_sha256)


def _counted(checkpoint: Checkpoint, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    for done, (name, tensor) in enumerate(read_tensors(checkpoint), 1):
        yield name, tensor
        progress("writing tensors", done, len(checkpoint.entries))


def save_record(record: Record, folder: Path, names: Sequence[str], recipe_sha256: str = "") -> None:
    """moesaic.json, with the hashes of the weight files as they lie there."""
    whole = record.with_files({name: sha256_of(folder / name) for name in names}, recipe_sha256)
    (folder / RECORD_NAME).write_text(whole.to_json(VERSION))
