"""A linear layer with int8 weights of which each token reads as many bits of each input as that input is worth.

Input k of a token matters by |x_k|, so the bits of its weights are read level by level while |x_k| worth[l] is above
the token's threshold (graded/worth.py). What is read counts as c(w), the middle of what the weight may be:

    y[n] = scale[n] step sum_k q_k c_k(w[n, k]) + bias[n],  q = round(x / step),  step = max|x| / 32639

q has two digits of int8 (graded/digits.py), 2 c = 2 (high bits) + (a number of the level, the same for all outputs), so
that the sum is one of integers, with one written way into floating point after it. A row has the same bits alone, in
any batch and on any device. A threshold of 0 is the whole int8 linear, exactly.

On the CPU the C++ of cpp/graded_linear.cpp reads the bits that are asked for and nothing else, on CUDA the Triton
kernels of graded/launches.py do for a few tokens. The rest of the world unpacks the weights block by block, and
multiplies as integers where it can.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .device_cost import Layout, Product, choose_form
from .digit_linear import DigitWeights, pack_digits
from .graded.bytes import WHOLE_BITS, level_bits
from .graded.digits import Digits, digits_of
from .graded.digits import graded_levels as graded_levels  # callers find it here
from .graded.launches import graded_linear_triton, takes
from .graded.layout import BLOCK, PackedGraded
from .graded.native import Layer, graded_linear_native, layer_of
from .graded.worth import halves
from .int8_dynamic_linear import choose_int8_dynamic_linear
from .int8_product import int8_product
from .jit import HAS_TRITON
from .native import native
from .planes.native import PLANE_ISAS, plane_isa
from .this_device import constants_of

BLOCK_BYTES = 8 << 20  # of weights that are unpacked at a time
Implementation = Literal["triton", "native", "integers", "torch"]
_PLANES: frozenset[Layout] = frozenset({"planes"})


@dataclass(frozen=True)
class GradedWeights:
    """packed: the int8 weights [outputs, inputs]; scale: fp32 [outputs]; worth: fp32 [levels].

    bias: floating point [outputs] or None. tiles: a second copy to be read whole at the full tier, on a GPU with room.
    Raises TypeError and ValueError for what does not fit together.
    """

    packed: PackedGraded
    scale: Tensor
    worth: Tensor
    bias: Tensor | None = None
    tiles: DigitWeights | None = None

    def __post_init__(self) -> None:
        outputs, levels = self.packed.outputs, (len(self.packed.planes),)
        _check_tensor("scale", self.scale, (outputs,), torch.float32)
        _check_tensor("worth", self.worth, levels, torch.float32)
        if self.bias is not None:
            _check_tensor("bias", self.bias, (outputs,), None)

    @property
    def layer(self) -> Layer:
        """The addresses of all of it, for the C++: valid as long as this object lives."""
        return layer_of(self.packed, *self.vectors)

    def with_tiles(self) -> "GradedWeights":
        """The same with a second copy."""
        return replace(self, tiles=pack_digits(self.packed.unpacked(), self.scale.detach(), self.bias))

    @cached_property
    def vectors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        bias = None if self.bias is None else self.bias.detach().float().contiguous()
        return self.scale.detach().contiguous(), self.worth.detach().contiguous(), bias


@dataclass(frozen=True)
class GradedResult:
    """y: [tokens, outputs], in the dtype of x. counts: int64 [2, tokens], of inputs read, and of their bits."""

    y: Tensor
    counts: Tensor

    @property
    def read(self) -> Tensor:
        """Inputs of which any bit is read: int64 [tokens]."""
        return self.counts[0]

    @property
    def bits(self) -> Tensor:
        """Bits read of each weight over all inputs, int64 [tokens]: bits / 8 * outputs bytes, 8 an input at most."""
        return self.counts[1]


def graded_linear(x: Tensor, weights: GradedWeights, thresholds: Tensor) -> GradedResult:
    """The equation above. x: floating point [tokens, inputs]; thresholds: fp32 [tokens]. No gradient passes.

    A token that is all zero gives the bias, one that is not finite or whose threshold is no number gives NaN and harms
    no other. Raises TypeError for dtypes, ValueError for shapes and devices.
    """
    _check(x, weights, thresholds)
    packed, (tokens, inputs) = weights.packed, x.shape
    device, library = ("cpu", native()) if x.is_cpu else (x.device.type, None)
    isa = plane_isa(library) if library else None
    triton = HAS_TRITON and takes(packed, tokens) and (x.is_cpu or _planes_pay(x, packed))
    choice = choose_graded_linear(device, tokens, inputs, packed.outputs, isa, triton)
    if choice == "native" and library and isa:
        return GradedResult(*graded_linear_native(x, weights.layer, thresholds, packed.outputs, library, isa))
    if choice == "triton":
        return GradedResult(*graded_linear_triton(x.detach(), packed, *weights.vectors, thresholds.contiguous()))
    return (_in_integers if choice == "integers" else graded_linear_torch)(x, weights, thresholds)


def choose_graded_linear(
    device: str, tokens: int, inputs: int, outputs: int, isa: str | None, triton: bool = False
) -> Implementation:
    """Which implementation answers; all of them give the same bits.

    isa: one of PLANE_ISAS, None where the C++ library is missing; triton: whether there is a kernel for so many tokens.
    The library is ahead of torch at any number of tokens, unless it has no vector instructions.
    """
    if device == "cuda" and triton:
        return "triton"
    if device == "cpu" and isa in PLANE_ISAS[1:] and tokens:
        return "native"
    return "integers" if choose_int8_dynamic_linear(device, tokens, inputs, outputs) == "integers" else "torch"


def _planes_pay(x: Tensor, packed: PackedGraded) -> bool:
    """Whether groups of tokens that read planes are sooner done than weights that are unpacked for all; how much they
    read is taken to be everything, as nobody waits for the device.
    """
    product = Product(len(x), packed.inputs, packed.outputs, element=x.element_size())
    return choose_form(product, constants_of(x.device), _PLANES) == "planes"


def graded_linear_torch(x: Tensor, weights: GradedWeights, thresholds: Tensor) -> GradedResult:
    """The same in fp64, where every one of these integers is exact: it judges, and runs anywhere."""
    digits, levels = digits_of(x, thresholds), graded_levels(x, weights.worth, thresholds)
    planes = weights.packed.planes
    chosen = [torch.where(levels == level, digits.q, 0.0).double() for level in range(1, len(planes) + 1)]
    parts = []
    for rows in _blocks(weights.packed):
        weight = weights.packed.unpacked(rows)
        coarse = [halves(weight, bits).double() for bits in level_bits(planes)[1:]]
        products = [functional.linear(*pair) for pair in zip(chosen, coarse, strict=True)]
        parts.append(torch.stack(products).sum(0))
    return _finished(torch.cat(parts, dim=-1), digits, levels, weights, x.dtype)


def _in_integers(x: Tensor, weights: GradedWeights, thresholds: Tensor) -> GradedResult:
    """The same by integer products: high bits of the inputs of each level, and one number a token for the middles."""
    digits, levels = digits_of(x, thresholds), graded_levels(x, weights.worth, thresholds)
    both = torch.cat([digits.high, digits.low]).to(torch.int8)
    chosen = {}
    middle = torch.zeros_like(digits.step, dtype=torch.int64)
    for level, bits in enumerate(level_bits(weights.packed.planes)[1:], start=1):
        here = levels == level
        middle += ((1 << (WHOLE_BITS - bits)) - 1) * torch.where(here, digits.q, 0.0).long().sum(-1, keepdim=True)
        if not x.is_cpu or bool(here.any()):  # elsewhere nobody waits for an answer
            chosen[level] = torch.where(torch.cat([here, here]), both, 0)
    high, low = torch.split(_summed(chosen, weights.packed, len(both)).long(), len(x))
    return _finished(high * 512 + low * 2 + middle, digits, levels, weights, x.dtype)


def _summed(chosen: dict[int, Tensor], packed: PackedGraded, rows: int) -> Tensor:
    """sum_k chosen[level][.., k] high bits of w: int32 [rows, outputs]; chosen: by level, int8 [rows, inputs]."""
    total = torch.zeros(rows, packed.outputs, dtype=torch.int32, device=packed.rows.device)
    step = max(1, BLOCK_BYTES // packed.outputs)
    for begin in range(0, packed.inputs, step):
        some = packed.inputs_only(slice(begin, begin + step))
        for level, digits in chosen.items():
            total += int8_product(digits[:, begin : begin + step], some.by_input(level))
    return total


def _finished(
    doubled: Tensor, digits: Digits, levels: Tensor, weights: GradedWeights, dtype: torch.dtype
) -> GradedResult:
    """The one way from twice the sum, a whole number in int64 or fp64, to the result."""
    y = doubled.float() * (digits.step * 0.5 * weights.scale)
    if weights.bias is not None:
        y = y + weights.bias.float()
    by_level = [(levels > level).sum(-1) for level in range(len(weights.packed.planes))]
    bits = [width * count for width, count in zip(weights.packed.planes, by_level, strict=True)]
    return GradedResult(y.to(dtype), torch.stack([by_level[0], torch.stack(bits).sum(0)]))


def _blocks(packed: PackedGraded) -> list[slice]:
    """Outputs whose weights are unpacked at a time."""
    rows = max(1, BLOCK_BYTES // packed.inputs // BLOCK) * BLOCK
    return [slice(begin, begin + rows) for begin in range(0, packed.outputs, rows)]


def _check(x: Tensor, weights: GradedWeights, thresholds: Tensor) -> None:
    inputs = weights.packed.inputs
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, it is {x.dtype}")
    if x.dim() != 2 or x.shape[1] != inputs:
        raise ValueError(f"x must be [tokens, {inputs}] for these weights, it is {list(x.shape)}")
    _check_tensor("thresholds", thresholds, (len(x),), torch.float32)
    for name, tensor in (("weights", weights.packed.rows), ("thresholds", thresholds)):
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device}, {name} on {tensor.device}: move one of them")


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    """dtype None: any floating point."""
    if tensor.dtype != dtype if dtype else not tensor.is_floating_point():
        raise TypeError(f"{name} must be {dtype or 'floating point'}, it is {tensor.dtype}")
    if tensor.shape != shape:
        raise ValueError(f"{name} must be {list(shape)}, it is {list(tensor.shape)}")
