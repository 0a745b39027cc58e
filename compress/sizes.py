"""How large a model is on disk before it is written, and whether there is room for it."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from ..models.checkpoint import Checkpoint
from ..models.errors import CheckpointError
from ..models.spec import TransformerSpec
from ..models.transformer import Transformer


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


def check_disk(target: Path, planned: int) -> None:
    """Raises CheckpointError where so many bytes do not fit beside `target`."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < planned * 1.01 + (1 << 20):
        raise CheckpointError(f"{target} needs {planned:,} bytes, {free:,} are free in {folder}; make room first")
