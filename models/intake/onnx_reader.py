"""The tensors and nodes of an ONNX file, by the few fields of its protobuf that are needed; nothing is run.

A message is a run of (field number << 3 | wire type, value); lengths are checked against the bytes that are there
before anything is sliced, and slices are views, so that no number in a file makes memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError

_GRAPH, _NODE, _INITIALIZER = 7, 1, 5  # of a model; of its graph
_INPUT, _NODE_NAME, _OP_TYPE = 1, 3, 4  # of a node
_DIMS, _DATA_TYPE, _FLOATS, _INTS, _TENSOR_NAME, _RAW = 1, 2, 4, 5, 8, 9  # of a tensor
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}
_VARINT, _WIDE, _BYTES, _NARROW = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the graph: MatMulInteger and the names it reads."""

    name: str
    op_type: str
    inputs: tuple[str, ...]


@dataclass(slots=True)
class Graph:
    """What is kept of a file. `tensors` are views of its bytes."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)


def read_onnx(data: bytes) -> Graph:
    """The graph of an ONNX file. Raises CheckpointError for one that is cut short or damaged."""
    graph = Graph()
    for number, value in _fields(memoryview(data)):
        if number == _GRAPH:
            for kind, item in _fields(_message(value)):
                if kind == _NODE:
                    graph.nodes.append(_node(_message(item)))
                elif kind == _INITIALIZER:
                    name, tensor = _tensor(_message(item))
                    graph.tensors[name] = tensor
    return graph


def _node(data: memoryview) -> Node:
    found: dict[int, list[str]] = {_INPUT: [], _NODE_NAME: [""], _OP_TYPE: [""]}
    for number, value in _fields(data):
        if number in found:
            found[number].append(_text(value))
    return Node(found[_NODE_NAME][-1], found[_OP_TYPE][-1], tuple(found[_INPUT]))


def _tensor(data: memoryview) -> tuple[str, npt.NDArray[np.generic]]:
    """(name, array). Numbers stand in raw_data, or, a few of them, packed in a field of their own."""
    name, kind, shape = "", 0, list[int]()
    raw: memoryview | None = None
    for number, value in _fields(data):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif number == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME:
            name = _text(value)
        elif number in (_RAW, _FLOATS):
            raw = _message(value)
        elif number == _INTS:
            numbers = [value] if isinstance(value, int) else _varints(value)
            raw = memoryview(np.array(numbers, np.uint64).astype(_dtype(kind, name)).tobytes())
    dtype = _dtype(kind, name)
    if raw is None or len(raw) != prod(shape) * dtype.itemsize:
        raise CheckpointError(f"the ONNX tensor {name[:200]!r} does not have the bytes that its shape asks for")
    return name, np.frombuffer(raw, dtype).reshape(shape)


def _dtype(kind: int, name: str) -> np.dtype[np.generic]:
    if kind not in _DTYPES:
        raise CheckpointError(f"the ONNX tensor {name[:200]!r} has the data type {kind}, which moesaic does not read")
    return np.dtype(_DTYPES[kind])


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_WIDE: 8, _NARROW: 4}.get(wire, -1)
        if wire == _BYTES:
            size, at = _varint(data, at)
        if not 0 <= size <= len(data) - at:
            raise _damaged()
        yield key >> 3, data[at : at + size]
        at += size


def _varints(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise _damaged()


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _damaged()
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode(errors="replace")


def _damaged() -> CheckpointError:
    return CheckpointError("the ONNX file is cut short or damaged; fetch it again")
