"""A linear layer with int8 weights and activations in two digits of int8, whose sums are exact:

    y[n] = scale[n] step sum_k q_k w[n, k] + bias[n],  q = round(x / step),  step = max|x| / 32639,  q = 256 h + l

It is `graded_linear` at the full tier, bit for bit, on weights that are read whole: a row has the same bits alone, in
any batch, on any number of threads and on any instruction set. Against fp32 activations it errs by 2^-16.

Weights are packed once, as w + 128 in blocks of 32 outputs, four inputs of each side by side: what one instruction of
a processor (VNNI) or of a GPU's thread (dp4a) multiplies with four digits. The packed weights are the only copy.
"""

import ctypes
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .cost import Cost
from .device_cost import Device, Layout, Product, choose_form
from .digit_matrix import digit_matrix_triton
from .digit_triton import BLOCK, digit_linear_triton
from .graded.bytes import MAX_INPUTS
from .graded.digits import digits_of
from .int8_dynamic_linear import int8_dynamic_linear_torch
from .jit import HAS_TRITON
from .native import Native, native
from .pages import on_large_pages
from .planes.native import PLANE_ISAS, plane_isa
from .this_device import constants_of

QUAD = 4  # inputs that stand together
_OFFSET = 128
_TILES: frozenset[Layout] = frozenset({"tiles"})
Implementation = Literal["triton", "matrix", "native", "torch"]


class Layer(ctypes.Structure):
    """`struct DigitLayer` of cpp/digit_linear.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tiles", "scale", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "digits")),
    ]


@dataclass(frozen=True)
class DigitWeights:
    """tiles: uint8 [blocks, quads, BLOCK, QUAD], w + 128; scale: fp32 [outputs]; bias: floating point or None.

    digits: of an activation: two, or one, by which it is `int8_dynamic_linear`, on a CPU.
    """

    tiles: Tensor
    inputs: int
    scale: Tensor
    bias: Tensor | None = None
    digits: int = 2

    @property
    def outputs(self) -> int:
        return len(self.scale)

    @property
    def layer(self) -> Layer:
        """The addresses of all of it, for the C++: valid as long as this object lives."""
        scale, bias = self._vectors
        address = None if bias is None else bias.data_ptr()
        return Layer(self.tiles.data_ptr(), scale.data_ptr(), address, self.inputs, self.outputs, self.digits)

    @cached_property
    def _vectors(self) -> tuple[Tensor, Tensor | None]:
        """Scale and bias of whole blocks."""
        fill = (0, -self.outputs % BLOCK)
        bias = None if self.bias is None else functional.pad(self.bias.detach().float(), fill).contiguous()
        return functional.pad(self.scale.detach(), fill).contiguous(), bias

    def unpacked(self, rows: slice = slice(None)) -> Tensor:
        """int8 [outputs, inputs], or these rows of it."""
        begin, end, _ = rows.indices(self.outputs)
        return self.at(torch.arange(begin, end, device=self.tiles.device))

    def at(self, rows: Tensor) -> Tensor:
        """int8 [n, inputs] of n rows. Raises IndexError for one that is not there."""
        if rows.is_cpu and bool(((rows < 0) | (rows >= self.outputs)).any()):  # a GPU is not waited for
            raise IndexError(f"there are rows 0 to {self.outputs - 1}, {rows.tolist()} are asked for")
        found = self.tiles[rows // BLOCK, :, rows % BLOCK].flatten(1)[:, : self.inputs]
        return (found ^ _OFFSET).view(torch.int8)


def pack_digits(weight: Tensor, scale: Tensor, bias: Tensor | None = None, digits: int = 2) -> DigitWeights:
    """weight: int8 [outputs, 1 to MAX_INPUTS inputs]; digits: of an activation, 1 or 2.

    Raises TypeError for dtypes, ValueError for shapes.
    """
    if weight.dtype != torch.int8 or scale.dtype != torch.float32:
        raise TypeError(f"weight must be int8 and scale float32, they are {weight.dtype} and {scale.dtype}")
    if weight.dim() != 2 or not 0 < weight.shape[1] <= MAX_INPUTS or not len(weight):
        raise ValueError(f"weight must be [outputs, 1 to {MAX_INPUTS} inputs], it is {list(weight.shape)}")
    for name, vector in (("scale", scale), ("bias", bias)):
        if vector is not None and vector.shape != (len(weight),):
            raise ValueError(f"{name} must be [{len(weight)}], it is {list(vector.shape)}")
    outputs, inputs = weight.shape
    filled = functional.pad(weight, (0, -inputs % QUAD, 0, -outputs % BLOCK)).view(torch.uint8) ^ _OFFSET
    words = filled.view(torch.int32).view(-(-outputs // BLOCK), BLOCK, -1)  # a quad is a word
    tiles = words.transpose(1, 2).contiguous().view(torch.uint8).view(len(words), -1, BLOCK, QUAD)
    return DigitWeights(on_large_pages([tiles])[0] if tiles.is_cpu else tiles, inputs, scale, bias, digits)


def digit_linear(x: Tensor, weights: DigitWeights) -> Tensor:
    """The equation above. x: floating point [..., inputs] -> [..., outputs] in its dtype. No gradient passes.

    A row that is all zero gives the bias, one that is not finite gives NaN and harms no other. Raises
    TypeError for dtypes, ValueError for shapes and devices.
    """
    _check(x, weights)
    library = native() if x.is_cpu else None
    flat = x.detach().flatten(0, -2) if x.dim() > 1 else x.detach().unsqueeze(0)
    device, product = "cpu" if x.is_cpu else x.device.type, Product(len(flat), weights.inputs, weights.outputs)
    constants = None if x.is_cpu else constants_of(x.device)
    triton = HAS_TRITON and weights.digits == 2
    choice = choose_digit_linear(device, product, library is not None, triton, constants)
    if choice == "native" and library:
        found = digit_linear_native(flat, weights, library)
    elif choice in ("triton", "matrix"):
        by_triton = digit_linear_triton if choice == "triton" else digit_matrix_triton
        found = by_triton(flat, weights.tiles, weights.scale, weights.bias)
    else:
        found = digit_linear_torch(flat, weights)
    return found.view(*x.shape[:-1], weights.outputs)


def choose_digit_linear(
    device: str, product: Product, library: bool, triton: bool, constants: Device | None = None
) -> Implementation:
    """Which implementation answers; all of them give the same bits. library: whether there is the C++ of the CPU;
    constants: of a GPU, on which the one takes its turn that is sooner done.
    """
    if device == "cuda" and triton and product.rows and constants:
        return "triton" if choose_form(product, constants, _TILES) == "digits" else "matrix"
    return "native" if device == "cpu" and library and product.rows else "torch"


def digit_linear_cost(tokens: int, inputs: int, outputs: int, activation_bytes: int) -> Cost:
    """Each operand once, weights in whole blocks. activation_bytes: the size of one element of x and y."""
    weights = -(-outputs // BLOCK) * BLOCK * -(-inputs // QUAD) * QUAD
    moved = weights + 4 * outputs + activation_bytes * tokens * (inputs + outputs)
    return Cost(bytes=moved, flops=2 * 2 * tokens * inputs * outputs)


def digit_linear_torch(x: Tensor, weights: DigitWeights) -> Tensor:
    """The same in fp64, where all these integers are exact: it judges, and runs anywhere. x: [tokens, inputs]."""
    if weights.digits == 1:
        return int8_dynamic_linear_torch(x, weights.unpacked(), weights.scale, weights.bias)
    digits = digits_of(x, torch.zeros(len(x), device=x.device))
    doubled = 2 * functional.linear(digits.q.double(), weights.unpacked().double())
    y = doubled.float() * (digits.step * 0.5 * weights.scale)
    return (y if weights.bias is None else y + weights.bias.float()).to(x.dtype)


def digit_linear_native(x: Tensor, weights: DigitWeights, library: Native) -> Tensor:
    """Calls cpp/digit_linear.cpp. Raises MemoryError when there is none to work in."""
    source = x.float().contiguous()
    y = source.new_empty(len(x), weights.outputs)
    isa = PLANE_ISAS.index(plane_isa(library))
    layer, threads = ctypes.byref(weights.layer), torch.get_num_threads()
    if not library.library.moesaic_digit_linear(layer, source.data_ptr(), y.data_ptr(), len(x), threads, isa):
        raise MemoryError(f"no memory for the digits of {len(x)} tokens of {weights.inputs} values")
    return y.to(x.dtype)


def _check(x: Tensor, weights: DigitWeights) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, it is {x.dtype}")
    if x.dim() == 0 or x.shape[-1] != weights.inputs:
        raise ValueError(f"x must be [..., {weights.inputs}] for these weights, it is {list(x.shape)}")
    if weights.tiles.device != x.device:
        raise ValueError(f"x is on {x.device}, weights on {weights.tiles.device}: move one of them")
