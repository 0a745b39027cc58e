"""A linear layer in int8 on both sides: activations are rounded as they come, one scale a token (W8A8 dynamic).

y[t, n] = scale[n] * token_scale[t] * sum_k q[t, k] * weight[n, k] + bias[n], q = round(x / token_scale),
token_scale[t] = max_k |x[t, k]| / 127. The sums are integers, so they depend on no order and no neighbour.
"""

from typing import Literal

import torch
from torch import Tensor

from .int8_linear import int8_linear
from .int8_product import int8_product

Implementation = Literal["integers", "floats"]
_HALF = 4  # bits


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
    if choose_int8_dynamic_linear(device, integers.numel(), inputs, outputs) == "integers":
        rows = integers.to(torch.int8).reshape(-1, inputs)
        return int8_product(rows, weight.t()).view(*integers.shape[:-1], outputs).float()
    high, ones = weight >> _HALF, torch.ones(len(weight), device=weight.device)  # in two parts, whose sums fp32 holds
    low = weight - (high << _HALF)
    return int8_linear(integers, low, ones) + int8_linear(integers, high, ones) * 2.0**_HALF


def choose_int8_dynamic_linear(device: str, num_activations: int, inputs: int, outputs: int) -> Implementation:
    """Integers wherever `int8_product` is: on a CPU, and on CUDA where 8 divides inputs and outputs."""
    fits = device == "cpu" or (device == "cuda" and inputs % 8 == outputs % 8 == 0)
    return "integers" if fits and num_activations else "floats"
