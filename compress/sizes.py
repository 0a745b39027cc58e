"""How large a model is on disk before it is written."""

from math import prod

import torch

from ..models.checkpoint import Checkpoint
from ..models.spec import TransformerSpec
from ..models.transformer import Transformer


def weight_bytes(spec: TransformerSpec, source: Checkpoint, part: str = "") -> int:
    """Bytes that a spec's weights take on disk, dense ones in the dtypes of the source. part: of the names counted."""
    with torch.device("meta"):
        tensors = Transformer(spec).state_dict()
    wide = max((entry.num_bytes // max(1, prod(entry.shape)) for entry in source.entries.values()), default=4)
    return sum(
        value.nbytes if value.dtype == torch.int8 else value.numel() * _width(name, wide, source)
        for name, value in tensors.items()
        if part in name
    )


def _width(name: str, wide: int, source: Checkpoint) -> int:
    if name.endswith("_scale"):
        return 4
    entry = source.entries.get(name)
    return wide if entry is None or not prod(entry.shape) else entry.num_bytes // prod(entry.shape)


def dense_bytes(spec: TransformerSpec, dtype: torch.dtype) -> int:
    """Bytes that a spec's tensors take where all are of one dtype."""
    with torch.device("meta"):
        count: int = sum(value.numel() for value in Transformer(spec).state_dict().values())
    return count * int(dtype.itemsize)
