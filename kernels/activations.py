"""The activation functions by name, in torch and in Triton."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from .jit import constexpr, jit, tl


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
}


@jit
def activate(x, ACTIVATION: constexpr):  # type: ignore[no-untyped-def]
    """The function of that name of fp32 values."""
    if ACTIVATION == "relu":
        result = tl.where(x < 0, 0.0, x)  # NaN stays NaN
    elif ACTIVATION == "silu":
        result = x * tl.sigmoid(x)
    elif ACTIVATION == "gelu":
        result = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:
        result = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return result
