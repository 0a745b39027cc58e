"""What a GGUF file holds, read and bounded before anything is allocated.

A file is a magic, a version, two counts, key-value pairs, tensor descriptions, and then the data, each tensor at an
aligned offset. Every count, length and offset is checked against the file's real size, so a truncated, flipped or
malicious file ends in one sentence and not in memory. A stream is only ever read forwards.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import IO, Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ..errors import CheckpointError

MAX_HEADER_BYTES = 64 << 20
MAX_ARRAY_LENGTH = 1 << 22
VERSIONS = (2, 3)
READABLE = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S",
    "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
)  # fmt: skip
# The number that a file gives a value's type -> how struct and numpy write it.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 20
_SHORTEST_PAIR, _SHORTEST_TENSOR = 13, 32  # bytes: of a key and value, of a tensor's description


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """One tensor, not yet read: its shape in rows first, and where its bytes lie in the file."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    begin: int
    num_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one run along the last dimension; quantized blocks never cross it."""
        return self.num_bytes // prod(self.shape[:-1])


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """All but the data. Values are Python scalars and strings, lists of strings, numpy arrays of numbers."""

    file: str
    values: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def read_gguf_header(stream: IO[bytes], size: int, file: str) -> GGUFHeader:
    """The header of a file of `size` bytes, from its start. Raises CheckpointError for what does not add up."""
    cursor = _Cursor(stream, size, file)
    if (magic := cursor.take(4)) != b"GGUF":
        raise CheckpointError(f"{file} is not a GGUF file: it begins with {magic!r}")
    version = cursor.number("I")
    if version not in VERSIONS:
        why = "it is big-endian" if version & 0xFFFF == 0 else f"it has version {version}"
        raise CheckpointError(f"{file} cannot be read: {why}; moesaic reads little-endian GGUF of versions 2 and 3")
    num_tensors, num_pairs = cursor.number("Q"), cursor.number("Q")
    cursor.expect(num_pairs * _SHORTEST_PAIR + num_tensors * _SHORTEST_TENSOR)
    values: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.text()
        if key in values:
            raise cursor.damaged(f"the key {key[:100]!r} stands in it twice")
        values[key] = _value(cursor, cursor.number("I"))
    described = [_described(cursor) for _ in range(num_tensors)]
    return GGUFHeader(file, values, _placed(described, cursor, values.get("general.alignment", 32)))


class _Cursor:
    """Reads numbers and strings of the header, and never past the file's end or the header's limit."""

    def __init__(self, stream: IO[bytes], size: int, file: str) -> None:
        self._stream = stream
        self.file = file
        self.size = size
        self.at = 0

    def expect(self, count: int) -> None:
        """Raises unless so many more bytes can belong to the header."""
        if count > self.size - self.at:
            raise CheckpointError(f"{self.file} ends inside its header ({self.size:,} bytes); copy it again")
        if count > MAX_HEADER_BYTES - self.at:
            raise self.damaged(f"it claims more than {MAX_HEADER_BYTES:,} bytes")

    def take(self, count: int) -> bytes:
        self.expect(count)
        data = self._stream.read(count)
        if len(data) != count:
            raise CheckpointError(f"{self.file} ends inside its header; copy it again")
        self.at += count
        return data

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        data = self.take(self.number("Q"))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.damaged(f"{data[:40]!r} is not UTF-8") from None

    def damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.file} has a damaged header ({why}); copy it again")


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _array(cursor, cursor.number("I"), cursor.number("Q"))
    if kind not in _SCALARS:
        raise cursor.damaged(f"{kind} is no type of a value")
    return cursor.number(_SCALARS[kind])


def _array(cursor: _Cursor, kind: int, length: int) -> Any:
    if length > MAX_ARRAY_LENGTH:
        raise cursor.damaged(f"an array of {length:,}, the limit is {MAX_ARRAY_LENGTH:,}")
    if kind == _STRING:
        cursor.expect(8 * length)
        return [cursor.text() for _ in range(length)]
    if kind not in _SCALARS:
        raise cursor.damaged(f"{kind} is no type of an array's items")
    dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
    return np.frombuffer(cursor.take(length * dtype.itemsize), dtype)


def _described(cursor: _Cursor) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
    """(name, kind, shape, offset) of one tensor. The file has the last dimension first."""
    name, num_dimensions = cursor.text(), cursor.number("I")
    if not 0 < num_dimensions <= _MAX_DIMENSIONS:
        raise cursor.damaged(f"{name[:100]!r} has {num_dimensions} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(num_dimensions))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        raise cursor.damaged(f"{name[:100]!r} is of the unknown type {number}") from None
    if 0 in shape:
        raise cursor.damaged(f"{name[:100]!r} has the shape {list(shape)}")
    return name, kind, shape, offset


def _placed(described: list[Any], cursor: _Cursor, alignment: Any) -> dict[str, GGUFTensor]:
    """The tensors by name, each inside the file, none over another."""
    if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r}")
    data = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GGUFTensor] = {}
    for name, kind, shape, offset in described:
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        if name in tensors or shape[-1] % block_size or offset % alignment:
            raise cursor.damaged(f"the tensor {name[:100]!r} is there twice, in part, or out of line")
        tensors[name] = GGUFTensor(name, kind, shape, data + offset, prod(shape) // block_size * block_bytes)
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.begin)
    if any(a.begin + a.num_bytes > b.begin for a, b in pairwise(ordered)):
        raise cursor.damaged("its tensors overlap")
    if ordered and (end := ordered[-1].begin + ordered[-1].num_bytes) > cursor.size:
        raise CheckpointError(
            f"{cursor.file} is cut short: its header describes {end:,} bytes, {cursor.size:,} are there; copy it again"
        )
    return tensors
