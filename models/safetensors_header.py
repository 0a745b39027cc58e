"""What a safetensors file holds, read and bounded before anything is allocated.

A file is an 8-byte little-endian header length, a JSON header, then the data. The header says for each tensor its
dtype, shape and byte range. Every number in it is checked against the file's real size, so a truncated, flipped
or malicious file ends in one sentence and not in memory.
"""

import json
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

from .errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "U16": 2, "U32": 4, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: where it lies and what it is, not yet read."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int  # from the first byte of data on
    end: int
    data_start: int = 0  # where the data begins in the file
    divisor: float = 1.0  # of its numbers, which are ours once divided by it

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file. Raises CheckpointError for anything that does not add up."""
    try:
        return _read_header(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None


def _read_header(file: Path) -> dict[str, TensorEntry]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise CheckpointError(f"{file.name} has {size} bytes, too few for a safetensors file; copy it again")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{file.name} claims a header of {length:,} bytes, the limit is {MAX_HEADER_BYTES:,}; "
                "it is damaged or not a safetensors file"
            )
        if length > size - 8:
            raise CheckpointError(
                f"{file.name} ends inside its header ({size:,} bytes, {length + 8:,} needed); copy it again"
            )
        header = _parsed(file, stream.read(length))
    _check_metadata(file, header.get("__metadata__", {}))
    entries = {name: _entry(file, name, value, 8 + length) for name, value in header.items() if name != "__metadata__"}
    _check_ranges(file, entries, size - 8 - length)
    return entries


def _parsed(file: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file.name} has a damaged header ({error}); copy it again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file.name} has a damaged header (not an object); copy it again")
    return header


def _check_metadata(file: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(
            f"{file.name} cannot be read as safetensors: its metadata is no map of texts; copy it again"
        )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


def _entry(file: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    damaged = CheckpointError(f"{file.name}: the header's entry of {name[:200]!r} is damaged; copy it again")
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise damaged from None
    numbers = (*shape, begin, end)
    if (
        not isinstance(dtype, str)
        or dtype not in ITEM_BYTES
        or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
    ):
        raise damaged
    if len(shape) > 8 or end - begin != prod(shape) * ITEM_BYTES[dtype]:
        raise damaged
    return TensorEntry(name, file, dtype, shape, begin, end, data_start)


def _check_ranges(file: Path, entries: dict[str, TensorEntry], data_bytes: int) -> None:
    """The tensors lie one after the other and fill the file: no gap, no overlap, nothing beyond the end."""
    ordered = sorted(entries.values(), key=lambda entry: (entry.begin, entry.end))
    total = ordered[-1].end if ordered else 0
    if total > data_bytes:
        raise CheckpointError(
            f"{file.name} is cut short: its header describes {total:,} bytes of data, {data_bytes:,} are there; "
            "copy it again"
        )
    starts_right = not ordered or ordered[0].begin == 0
    if not starts_right or any(a.end != b.begin for a, b in pairwise(ordered)) or total != data_bytes:
        raise CheckpointError(f"{file.name}: its tensors overlap or leave gaps; the header is damaged, copy it again")
