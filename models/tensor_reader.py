"""The bytes of a safetensors entry as a tensor.

Read, not mapped: a mapped file counts as memory of the process a second time, and ends it where it is cut short.
"""

from io import BufferedReader

import torch
from torch import Tensor

from .errors import CheckpointError
from .layout import Part
from .safetensors_header import TensorEntry

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
STORED = {**FLOATS, "I8": torch.int8}
_CHUNK = 8 << 20


def read_tensor(stream: BufferedReader, entry: TensorEntry) -> Tensor:
    """The tensor of an entry whose file is open. Raises CheckpointError where the file ends inside it."""
    if isinstance(entry, Part):
        return entry.cut(read_tensor(stream, entry.whole))
    raw = torch.empty(entry.num_bytes, dtype=torch.uint8)
    stream.seek(entry.data_start + entry.begin)
    if stream.readinto(raw.numpy().data) != entry.num_bytes:
        raise CheckpointError(f"{entry.file.name} ends inside {entry.name}; copy it again")
    tensor = raw.view(STORED[entry.dtype]).view(entry.shape)
    return tensor if entry.divisor == 1 else tensor / entry.divisor


def are_equal(one: TensorEntry, other: TensorEntry) -> bool:
    """Whether two entries hold the same bytes in the same dtype and shape; reads up to the first difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.data_start + one.begin)
        second.seek(other.data_start + other.begin)
        for done in range(0, one.num_bytes, _CHUNK):
            size = min(_CHUNK, one.num_bytes - done)
            if first.read(size) != second.read(size):
                return False
    return True
