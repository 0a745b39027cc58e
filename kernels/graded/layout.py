"""Weights of a graded linear in the order in which they are read: input by input, the high bits of all outputs first.

A weight w is kept as the byte w + 128, cut into planes from the high end. A row belongs to an input and begins on a
line of 64 bytes: its first plane over all outputs, then its second, and so on, so that to read more of an input is to
read its row a bit further. It is the only copy of the weights; `unpacked` makes plain rows of it, a block at a time.

Outputs stand in blocks of 128, the last of 64 where that is enough. With G = 4 or 2 groups of 4 outputs side by side,
output n of a block, of group g = n / 4 mod G, has its field of w bits in

    byte  16 (g mod G') + 4 (n / 4G mod 4) + n mod 4,  G' = max(1, G w / 4)
    at bit  w (4 / w (n / 16G) + g / G')

of the block's part of the plane. Bytes of four inputs, interleaved, are then dot products of neighbouring outputs,
whatever the width of the plane.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..native import native
from ..pages import LINE, on_large_pages
from .bytes import MAX_INPUTS, PLANES, WHOLE_BITS, check_planes
from .rows import pack_native, unpacked_native

BLOCK = 128  # outputs
_GROUP = 4  # outputs side by side
_LANE = 16  # bytes: four groups
_PACKED_INPUTS = 64  # at a time, whose planes stay in a cache
_SIGN = 1 << (WHOLE_BITS - 1)
_ALIKE_LINES = 16  # lines so far apart share four of the 64 sets of a cache


class Run(NamedTuple):
    """Blocks of one size, one after the other: where they begin, how many they are, their groups side by side."""

    first: int
    blocks: int
    groups: int

    @property
    def outputs(self) -> int:
        """Of a block."""
        return 32 * self.groups

    def lanes(self, width: int) -> int:
        """Pieces of 16 bytes of one block in a plane of this width."""
        return max(1, self.groups * width // 4)


@dataclass(frozen=True)
class PackedGraded:
    """rows: uint8 [inputs, bytes], on lines of 64 bytes: the only copy of int8 weights [outputs, inputs]."""

    rows: Tensor
    outputs: int
    planes: tuple[int, ...] = PLANES

    @property
    def inputs(self) -> int:
        return len(self.rows)

    @property
    def num_bytes(self) -> int:
        """The bytes of memory, padding included."""
        return self.rows.nbytes

    def inputs_only(self, inputs: slice) -> "PackedGraded":
        """A view of some of the inputs."""
        return PackedGraded(self.rows[inputs], self.outputs, self.planes)

    def by_input(self, level: int | None = None) -> Tensor:
        """The weights again, transposed: int8 [inputs, outputs]; as far as `level` reads them, bits beyond it 0."""
        read, library = len(self.planes) if level is None else level, native() if self.rows.is_cpu else None
        if library is not None:
            return unpacked_native(self.rows, self.outputs, self.planes, read, library)
        under = WHOLE_BITS - sum(self.planes[:read])
        return (self.unpacked() >> under << under).T

    def at(self, outputs: Tensor) -> Tensor:
        """The weights of some outputs, int64 [n], in any order: int8 [n, inputs]."""
        whole, under, starts = torch.zeros_like(self.rows[:, :1]), WHOLE_BITS, plane_starts(self.outputs, self.planes)
        for start, width in zip(starts, self.planes, strict=False):
            under -= width
            byte, bit = _places(outputs, self.outputs, width)
            whole = whole | (self.rows[:, start + byte] >> bit.to(torch.uint8) & ((1 << width) - 1)) << under
        return (whole ^ _SIGN).view(torch.int8).T.contiguous()

    def unpacked(self, rows: slice = slice(None)) -> Tensor:
        """The weights of these outputs again: int8 [outputs, inputs]. Whole blocks of 128 waste nothing."""
        begin, end, step = rows.indices(self.outputs)
        if step != 1:
            raise ValueError(
                f"rows takes every {step}th output, unpacked gives runs of neighbours: leave the step away"
            )
        found, first = [], begin
        for run in runs(self.outputs):
            skip = max(0, (begin - run.first) // run.outputs)
            stop = min(run.blocks, -(-(end - run.first) // run.outputs))
            if skip < stop:
                first = min(first, run.first + skip * run.outputs)
                found.append(self._run(run, skip, stop))
        whole = torch.cat(found) if found else self.rows.new_empty(0, self.inputs, dtype=torch.int8)
        return whole[begin - first : max(begin, end) - first]

    def to(self, device: torch.device | str) -> "PackedGraded":
        """The same on a device."""
        return PackedGraded(self.rows.to(device), self.outputs, self.planes)

    def _run(self, run: Run, begin: int, end: int) -> Tensor:
        """int8 [outputs, inputs] of blocks [begin, end) of a run."""
        whole, under = None, WHOLE_BITS
        for start, width in zip(plane_starts(self.outputs, self.planes), self.planes, strict=False):
            under -= width
            size = _LANE * run.lanes(width)
            start += _before(run, width)
            plane = self.rows[:, start + begin * size : start + end * size]
            field = _fields(plane.view(self.inputs, end - begin, run.lanes(width), 4, _GROUP), run, width) << under
            whole = field if whole is None else whole | field
        assert whole is not None  # there is a plane
        return (whole ^ _SIGN).view(torch.int8).T.contiguous()


def pack_graded(weight: Tensor, planes: tuple[int, ...] = PLANES) -> PackedGraded:
    """weight: int8 [outputs, inputs]. Raises TypeError, and ValueError for sizes and planes that no layout takes."""
    check_planes(planes)
    if weight.dtype != torch.int8:
        raise TypeError(f"weight must be int8, it is {weight.dtype}: quantize it first")
    if weight.dim() != 2 or not 0 < weight.shape[1] <= MAX_INPUTS or not len(weight):
        raise ValueError(f"weight must be [outputs, 1 to {MAX_INPUTS} inputs], it is {list(weight.shape)}")
    outputs, inputs = weight.shape
    size = plane_starts(outputs, planes)[-1]
    rows = torch.zeros(inputs, row_bytes(size), dtype=torch.uint8, device=weight.device)
    rows = on_large_pages([rows])[0] if rows.is_cpu else rows
    library = native() if rows.is_cpu else None
    if library is not None:
        pack_native(weight, rows, planes, library)
        return PackedGraded(rows, outputs, tuple(planes))
    for begin in range(0, inputs, _PACKED_INPUTS):
        part = slice(begin, begin + _PACKED_INPUTS)
        rows[part, :size] = _planes_of(weight[:, part].T.contiguous().view(torch.uint8) ^ _SIGN, planes)
    return PackedGraded(rows, outputs, tuple(planes))


def row_bytes(size: int) -> int:
    """Bytes from one row to the next where so many are used. A multiple of 16 lines is left out: rows that are read
    side by side would have their lines in a few sets of the first cache, and push each other out of it.
    """
    lines = -(-size // LINE)
    return (lines + (lines % _ALIKE_LINES == 0)) * LINE


def runs(outputs: int) -> list[Run]:
    """The blocks of so many outputs."""
    whole, left = divmod(outputs, BLOCK)
    if 2 * left > BLOCK:
        whole, left = whole + 1, 0
    found = [Run(0, whole, 4), Run(whole * BLOCK, 1, 2)]
    return [run for run, there in zip(found, (whole, left), strict=True) if there]


def plane_starts(outputs: int, planes: tuple[int, ...]) -> list[int]:
    """The byte of a row at which each plane begins, and at the end where the last one ends."""
    starts = [0]
    for width in planes:
        starts.append(starts[-1] + sum(run.blocks * _LANE * run.lanes(width) for run in runs(outputs)))
    return starts


def _before(run: Run, width: int) -> int:
    """Bytes of a plane that lie before a run: there is one other at most, of blocks of 128."""
    return run.first // BLOCK * _LANE * 4 * width // 4


def _planes_of(whole: Tensor, planes: tuple[int, ...]) -> Tensor:
    """Bytes [inputs, outputs] -> [inputs, bytes of a row]."""
    found, under = [], WHOLE_BITS
    for width in planes:
        under -= width
        field = whole >> under & ((1 << width) - 1)
        found += [
            _joined(field[:, run.first : run.first + run.blocks * run.outputs], run, width)
            for run in runs(whole.shape[1])
        ]
    return torch.cat(found, dim=1)


def _joined(field: Tensor, run: Run, width: int) -> Tensor:
    """[inputs, outputs of a run, the last ones missing or not] -> [inputs, bytes]."""
    lanes = run.lanes(width)
    padded = functional.pad(field, (0, run.blocks * run.outputs - field.shape[1]))
    parts = padded.view(len(field), run.blocks, 2, 4, run.groups // lanes, lanes, _GROUP)
    whole = torch.zeros_like(parts[:, :, 0, :, 0])
    for half in range(2):
        for turn in range(run.groups // lanes):
            whole |= parts[:, :, half, :, turn] << _shift(half, turn, width)
    return whole.transpose(2, 3).flatten(1)


def _fields(plane: Tensor, run: Run, width: int) -> Tensor:
    """[inputs, blocks, lanes, 4, 4] bytes -> [inputs, outputs], the fields of one plane."""
    halves = []
    for half in range(2):
        turns = [plane >> _shift(half, turn, width) for turn in range(run.groups // run.lanes(width))]
        halves.append(torch.stack(turns, dim=2))  # [inputs, blocks, turns, lanes, 4, 4]
    fields = torch.stack(halves, dim=2) & ((1 << width) - 1)
    return fields.permute(0, 1, 2, 5, 3, 4, 6).flatten(1)


def _places(outputs: Tensor, count: int, width: int) -> tuple[Tensor, Tensor]:
    """Of each output its byte in a plane of this width, and its bit there."""
    byte, bit = torch.zeros_like(outputs), torch.zeros_like(outputs)
    for run in runs(count):
        lanes, n = run.lanes(width), outputs - run.first
        block, n = n // run.outputs, n % run.outputs
        group, here = n // _GROUP % run.groups, n // (_GROUP * run.groups) % 4
        place = _LANE * (group % lanes) + n % _GROUP + _GROUP * here + _before(run, width) + block * _LANE * lanes
        turn = width * (4 // width * (n // (16 * run.groups)) + group // lanes)
        inside = (outputs >= run.first) & (outputs < run.first + run.blocks * run.outputs)
        byte, bit = torch.where(inside, place, byte), torch.where(inside, turn, bit)
    return byte, bit


def _shift(half: int, turn: int, width: int) -> int:
    return width * (4 // width * half + turn)
