"""A linear layer whose weight may be narrower than its activations: y[t, n] = sum_k x[t, k] * weight[n, k] + bias[n].

With equal dtypes torch's own product is the best there is. On a CPU, bf16 weights under fp32 activations are read as
bf16 and widened in registers: the arithmetic of fp32 for the memory traffic of bf16.
"""

from typing import Literal

import torch
from torch.nn import functional

from .native import ISAS, native
from .native_linear import linear_native

Implementation = Literal["native", "torch"]


def dense_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """y[t, n] = sum_k x[t, k] * weight[n, k] + bias[n], in the dtype of x.

    x: floating point [..., inputs]; weight: [outputs, inputs] in the dtype of x or narrower; bias: [outputs].
    Under autograd it is `dense_linear_torch`. Raises what torch raises for shapes that do not fit.
    """
    if x.dtype == weight.dtype:
        return functional.linear(x, weight, bias)
    library = native() if x.is_cpu else None
    requires_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    isa = ISAS[library.isa] if library else None
    fits = x.numel() > 0 and x.shape[-1] == weight.shape[-1] and weight.is_contiguous()
    if library and fits and choose_dense_linear(x.dtype, weight.dtype, requires_grad, isa) == "native":
        return linear_native(x, weight, None, bias, library)
    return dense_linear_torch(x, weight, bias)


def dense_linear_torch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The same in plain torch: the weight is widened whole, each time."""
    return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def choose_dense_linear(
    activations: torch.dtype, weights: torch.dtype, requires_grad: bool, isa: str | None
) -> Implementation:
    """Which implementation multiplies unlike dtypes on a CPU; `isa` is None where the C++ library is missing."""
    narrow = activations == torch.float32 and weights == torch.bfloat16
    return "native" if narrow and not requires_grad and isa not in (None, "portable") else "torch"


def keeps_bf16(device: torch.device) -> bool:
    """Whether bf16 weights under fp32 activations are best left as they are on this device."""
    library = native() if device.type == "cpu" else None
    isa = ISAS[library.isa] if library else None
    return choose_dense_linear(torch.float32, torch.bfloat16, False, isa) == "native"
