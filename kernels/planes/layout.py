"""Weights of a bit-plane FFN in the order in which cpp/plane_ffn.cpp reads them.

What every token reads lies in groups of 16 neurons, one after the other: the high bits of gate and up, then their fit.
What only some tokens read follows neuron by neuron: the low bits of gate and up in one array, their scales and biases
in another, the rows of the transposed down in a third. Bits below the refined ones are not here.

A number of b bits is cut into fields of 4, 2 and 1 bits, highest first; fields of one width fill bytes by turns.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ..jit import cdiv
from ..pages import LINE, on_large_pages
from .bytes import WHOLE_BITS
from .coarse import CoarseFit

GROUP = 16  # neurons
FIELDS = (4, 2, 1)  # widths in bits
MAX_HIDDEN = 65536  # above it a dot product may leave int32
PACKED_BITS = (1, 2, 3, 4)


class Layer(ctypes.Structure):
    """`struct PlaneLayer` of cpp/plane_layer.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("groups", "low", "exact", "down", "down_scale", "down_bias", "whole")),
        *((name, ctypes.c_int64) for name in ("hidden", "width", "group_bytes", "low_bytes", "columns")),
        *((name, ctypes.c_int64) for name in ("bits", "refined_bits", "gated", "biased")),
    ]


@dataclass(frozen=True)
class PackedPlanes:
    """groups: uint8 [ceil(width / 16), bytes]; low: uint8 [width, bytes]; down: int8 [width, hidden in whole lines].

    Their rows begin on lines of 64 bytes. exact: fp32 [width, 1 to 4], scales of gate and up, then biases. down_scale,
    down_bias: fp32 [hidden], the bias or None. `bits` are the high ones, `refined_bits` those and the low ones. whole:
    down once more, as `digit_linear.Layer`, for whoever reads all of it.
    """

    groups: Tensor
    low: Tensor
    exact: Tensor
    down: Tensor
    down_scale: Tensor
    down_bias: Tensor | None
    hidden: int
    width: int
    bits: int
    refined_bits: int
    gated: bool
    biased: bool  # gate and up
    whole: ctypes.Structure | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of memory, padding included."""
        tensors = (self.groups, self.low, self.exact, self.down, self.down_scale, self.down_bias)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def importance_offset(self) -> int:
        """Bytes of a group before the importance of its neurons."""
        rows = 1 + self.gated
        lines = sum(cdiv(cdiv(self.hidden, 4), 8 // width // rows) for width, _ in _fields(self.bits))
        return lines * LINE + 3 * rows * GROUP * 2

    @cached_property
    def layer(self) -> Layer:
        """The addresses of all of it, for the C++: valid as long as this object lives."""
        return Layer(
            self.groups.data_ptr(),
            self.low.data_ptr(),
            self.exact.data_ptr(),
            self.down.data_ptr(),
            self.down_scale.data_ptr(),
            None if self.down_bias is None else self.down_bias.data_ptr(),
            None if self.whole is None else ctypes.addressof(self.whole),
            self.hidden,
            self.width,
            self.groups.shape[1],
            self.low.shape[1],
            self.down.shape[1],
            self.bits,
            self.refined_bits,
            self.gated,
            self.biased,
        )


def can_pack(bits: int, hidden: int) -> bool:
    """Whether planes have a packed form where so many bits of so many inputs route."""
    return bits in PACKED_BITS and hidden <= MAX_HIDDEN


def pack_planes(
    scored: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    down: tuple[Tensor, Tensor, Tensor | None],
    fit: CoarseFit,
    bits: int,
    refined_bits: int,
) -> PackedPlanes:
    """scored: (weight int8 [width, hidden], scale fp32 [width], bias [width] or None) of gate, if there is one, and up.

    down: int8 [hidden, width], with scale and bias [hidden]. Raises ValueError for sizes and bits that have no packed
    form.
    """
    matrix, down_scale, down_bias = down
    hidden, width = matrix.shape
    if not can_pack(bits, hidden):
        raise ValueError(
            f"planes are packed for {PACKED_BITS[0]} to {PACKED_BITS[-1]} bits and up to {MAX_HIDDEN} inputs, "
            f"these have {bits} bits and {hidden} inputs; leave `packed` away and torch computes them"
        )
    if not bits < refined_bits <= WHOLE_BITS:
        raise ValueError(f"refined_bits is {refined_bits}, it must lie above bits, {bits}, and go up to {WHOLE_BITS}")
    weights = torch.stack([weight for weight, _, _ in scored])  # [rows, width, hidden]
    high = (weights >> (8 - bits)) + (1 << (bits - 1))  # unsigned
    low = weights >> (WHOLE_BITS - refined_bits) & ((1 << (refined_bits - bits)) - 1)
    biases = [bias for _, _, bias in scored]
    biased = any(bias is not None for bias in biases)
    vectors = [scale for _, scale, _ in scored]
    if biased:
        vectors += [torch.zeros_like(vectors[0]) if bias is None else bias for bias in biases]
    fitted = [*fit.scale, *fit.bias, *fit.error, fit.importance]
    groups = _padded(torch.cat([_group_planes(high, bits), _group_vectors(fitted)], dim=-1), LINE)
    exact = torch.stack([vector.detach().float() for vector in vectors], dim=1)
    parts = [groups, _neuron_planes(low, refined_bits - bits), exact, _padded(matrix.T, LINE)]
    groups, low, exact, rows = on_large_pages(parts) if matrix.is_cpu else parts
    return PackedPlanes(
        groups=groups,
        low=low,
        exact=exact,
        down=rows,
        down_scale=down_scale.detach().contiguous(),
        down_bias=None if down_bias is None else down_bias.detach().float().contiguous(),
        hidden=hidden,
        width=width,
        bits=bits,
        refined_bits=refined_bits,
        gated=len(scored) == 2,
        biased=biased,
    )


def _fields(bits: int) -> list[tuple[int, int]]:
    """(width, shift) of the fields of a number of `bits` bits, highest first."""
    found, left = [], bits
    for width in FIELDS:
        if bits & width:
            left -= width
            found.append((width, left))
    return found


def _group_planes(numbers: Tensor, bits: int) -> Tensor:
    """[rows, width, hidden] -> [groups, bytes]; a line has 16 neurons of 4 inputs, slots are rows, then inputs."""
    rows = len(numbers)
    planes = []
    for width, shift in _fields(bits):
        steps = 8 // width // rows  # of four inputs in a line
        field = numbers >> shift & ((1 << width) - 1)
        field = functional.pad(field, (0, -numbers.shape[2] % (4 * steps), 0, -numbers.shape[1] % GROUP))
        field = field.view(rows, field.shape[1] // GROUP, GROUP, -1, steps, 4)
        slots = field.permute(1, 3, 4, 0, 2, 5).flatten(2, 3)  # [groups, lines, slots, neurons, 4]
        planes.append(_joined(slots, width, dim=2).flatten(1))
    return torch.cat(planes, dim=-1)


def _group_vectors(vectors: Sequence[Tensor]) -> Tensor:
    """[width] each -> [groups, bytes], 16 values of each in bf16."""
    stacked = torch.stack([vector.detach().bfloat16() for vector in vectors])
    stacked = functional.pad(stacked, (0, -stacked.shape[1] % GROUP))
    return stacked.view(len(vectors), -1, GROUP).transpose(0, 1).flatten(1).contiguous().view(torch.uint8)


def low_part_bytes(hidden: int, width: int, rows: int) -> int:
    """Bytes of a neuron's plane of fields of so many bits; stretches of the inputs are as long."""
    return cdiv(cdiv(hidden, 8 // width // rows), LINE) * LINE


def _neuron_planes(numbers: Tensor, bits: int) -> Tensor:
    """[rows, width, hidden] -> [width, bytes]; slots are rows, then as many stretches of the inputs as fit."""
    rows = len(numbers)
    planes = []
    for width, shift in _fields(bits):
        stretches = 8 // width // rows
        field = _padded(numbers >> shift & ((1 << width) - 1), LINE * stretches)
        slots = (
            field.view(rows, field.shape[1], stretches, -1).permute(1, 2, 0, 3).flatten(1, 2)
        )  # [width, slots, bytes]
        planes.append(_joined(slots, width, dim=1))
    return torch.cat(planes, dim=-1)


def _joined(slots: Tensor, width: int, dim: int) -> Tensor:
    """Fields of `width` bits, as many along `dim` as fill a byte, the first one lowest."""
    parts = slots.to(torch.uint8).unbind(dim)
    whole = parts[0].clone()
    for i, part in enumerate(parts[1:], start=1):
        whole |= part << (i * width)
    return whole


def _padded(rows: Tensor, multiple: int) -> Tensor:
    return functional.pad(rows, (0, -rows.shape[-1] % multiple)).contiguous()
