"""The bytes of a safetensors entry as a tensor.

Read, not mapped: a mapped file counts as memory of the process a second time, and ends it where it is cut short.
"""

from io import BufferedReader

import numpy as np
import torch
from torch import Tensor

from .errors import CheckpointError
from .layout import Part
from .safetensors_header import TensorEntry

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
STORED = {**FLOATS, "I8": torch.int8}
_CHUNK = 8 << 20
_PIECE = 1 << 17  # values that fit a cache
_INTEGERS = {
    2: (torch.int16, np.uint16), 4: (torch.int32, np.uint32), 8: (torch.int64, np.uint64),
}  # fmt: skip


def read_tensor(stream: BufferedReader, entry: TensorEntry, into: Tensor | None = None) -> Tensor:
    """The tensor of an entry whose file is open; into: memory of its shape and dtype, else its own. Raises
    CheckpointError where the file ends inside it.
    """
    if isinstance(entry, Part):
        return entry.cut(read_tensor(stream, entry.whole))
    raw = torch.empty(entry.num_bytes, dtype=torch.uint8) if into is None else into.view(-1).view(torch.uint8)
    stream.seek(entry.data_start + entry.begin)
    if stream.readinto(raw.numpy().data) != entry.num_bytes:
        raise CheckpointError(f"{entry.file.name} ends inside {entry.name}; copy it again")
    tensor = raw.view(STORED[entry.dtype]).view(entry.shape)
    return tensor if entry.divisor == 1 else tensor / entry.divisor


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinity. Their bits are the largest of all numbers: those of either sign among signed
    or unsigned integers; two maxima of what is in the cache are many times as fast as looking at each value.
    """
    if not tensor.numel():
        return True
    signed, unsigned = _INTEGERS[tensor.dtype.itemsize]
    bits = tensor.contiguous().view(-1).view(signed).numpy()
    edge = int(torch.tensor(torch.inf, dtype=tensor.dtype).view(signed))
    minus = edge + (1 << (8 * tensor.dtype.itemsize - 1))
    pieces = (bits[at : at + _PIECE] for at in range(0, len(bits), _PIECE))
    return all(piece.max() < edge and piece.view(unsigned).max() < minus for piece in pieces)


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
