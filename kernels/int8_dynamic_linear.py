"""A linear layer in int8 on both sides: activations are rounded as they come, one scale a token (W8A8 dynamic).

y[t, n] = scale[n] * token_scale[t] * sum_k q[t, k] * weight[n, k] + bias[n], q = round(x / token_scale),
token_scale[t] = max_k |x[t, k]| / 127. The sums are integers, so they depend on no order and no neighbour.
"""

import functools
from typing import Literal

import torch
from torch import Tensor

from .int8_linear import int8_linear

Implementation = Literal["integers", "floats"]
_HALF = 4  # bits
CUDA_ROWS = 32  # fewer rows are padded: CUDA's integer product takes more than 16


def int8_dynamic_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The equation above. x: floating point [..., inputs]; weight: int8 [outputs, inputs]; scale: fp32 [outputs].

    Result in the dtype of x. Raises what `int8_linear` raises.
    """
    integers, token_scale = quantize_tokens(x)
    y = integer_product(integers, weight) * (token_scale * scale)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def int8_dynamic_linear_torch(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same in plain torch, in fp64, where every integer is exact: it judges."""
    integers, token_scale = quantize_tokens(x)
    sums = torch.nn.functional.linear(integers.double(), weight.double()).float()
    y = sums * (token_scale * scale)
    return (y if bias is None else y + bias.float()).to(x.dtype)


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """round(x / scale) with scale = max|x| / 127 a token, as whole numbers in fp32 [..., hidden], and the scales."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True) / 127.0
    return torch.round(wide / torch.where(scale > 0, scale, torch.ones_like(scale))), scale


def integer_product(integers: Tensor, weight: Tensor) -> Tensor:
    """sum_k integers[.., k] weight[n, k], rounded once: fp32 [..., outputs]. integers: whole numbers of at most 127 in
    fp32 [..., inputs]; weight: int8 [outputs, inputs].
    """
    device, (outputs, inputs) = integers.device.type, weight.shape
    exact = device != "cpu" or cpu_products_are_exact()
    if choose_int8_dynamic_linear(device, integers.numel(), inputs, outputs, exact) == "integers":
        return _in_integers(integers, weight).float()
    high, ones = weight >> _HALF, torch.ones(len(weight), device=weight.device)  # in two parts, whose sums fp32 holds
    low = weight - (high << _HALF)
    return int8_linear(integers, low, ones) + int8_linear(integers, high, ones) * 2.0**_HALF


def choose_int8_dynamic_linear(
    device: str, num_activations: int, inputs: int, outputs: int, exact: bool = True
) -> Implementation:
    """Integer units where torch reaches them: on CUDA where 8 divides inputs and outputs, on a CPU in rows of 2 inputs
    or more, since its product of rows of 1 takes the columns of a weight for its rows and is wrong.

    exact: whether this processor's integer product is one.
    """
    fits = (device == "cpu" and inputs > 1 and exact) or (device == "cuda" and inputs % 8 == outputs % 8 == 0)
    return "integers" if fits and num_activations else "floats"


@functools.cache
def cpu_products_are_exact() -> bool:
    """Whether torch's integer product is one on this CPU: without VNNI, sums of two may be cut off at 16 bits."""
    most = torch.full((32, 64), 127, dtype=torch.int8)
    return bool((torch._int_mm(most, most.t()) == 64 * 127 * 127).all())


def _in_integers(integers: Tensor, weight: Tensor) -> Tensor:
    """int32 [..., outputs]."""
    rows = integers.to(torch.int8).flatten(0, -2) if integers.dim() > 1 else integers.to(torch.int8).unsqueeze(0)
    count = len(rows)
    if rows.is_cuda and count < CUDA_ROWS:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, CUDA_ROWS - count))
    product: Tensor = torch._int_mm(rows, weight.t())
    return product[:count].view(*integers.shape[:-1], weight.shape[0])
