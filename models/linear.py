"""Linears and embeddings: twins with one call each, picked by the format that the spec names.

Whoever builds one says its sizes; the weights come from the checkpoint, so they start on the meta device.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..kernels.dense_linear import dense_linear
from ..kernels.int8_dynamic_linear import int8_dynamic_linear
from ..kernels.int8_linear import int8_linear
from .spec import DENSE, INT8, INT8_DYNAMIC


class TensorModule(nn.Module):
    """A module whose call gives a tensor, and says so to the type checker."""

    if TYPE_CHECKING:
        __call__: Callable[..., Tensor]


class Linear(TensorModule):
    """y = x W^T + b in the dtype of x. x: [..., inputs], weight: [outputs, inputs], in bf16 too under fp32 x."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return dense_linear(x, self.weight, self.bias)


class Int8Linear(TensorModule):
    """y = scale * (x Q^T) + b, Q int8 [outputs, inputs], scale fp32 [outputs]; x keeps its dtype."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(outputs, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(x, self.weight, self.weight_scale, self.bias)


class Int8DynamicLinear(Int8Linear):
    """The same weights with activations that are rounded to int8 as they come, one scale a token (W8A8)."""

    def forward(self, x: Tensor) -> Tensor:
        return int8_dynamic_linear(x, self.weight, self.weight_scale, self.bias)


class Embedding(TensorModule):
    """Rows of a table: ids [...] -> [..., hidden]. `project` is the tied head: hidden -> logits [..., vocab]."""

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden_size))
        self.dtype: torch.dtype | None = None  # of what is looked up, where it is not the table's; `load` sets it

    def forward(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.weight)
        return rows if self.dtype is None else rows.to(self.dtype)

    def project(self, hidden: Tensor) -> Tensor:
        return dense_linear(hidden, self.weight)


class Int8Embedding(TensorModule):
    """The int8 twin of Embedding: one scale per row serves the lookup and the tied head alike."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(rows, hidden_size, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(rows, dtype=torch.float32))
        self.dtype = torch.float32  # of what is looked up; `load` sets it to the model's

    def forward(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.weight).float()
        return (rows * self.weight_scale[ids].unsqueeze(-1)).to(self.dtype)

    def project(self, hidden: Tensor) -> Tensor:
        return int8_linear(hidden, self.weight, self.weight_scale)


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Puts other values in the place of a parameter, which then learns nothing, or of a buffer."""
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[name] = value


def dense_weight(linear: TensorModule, rows: slice = slice(None)) -> Tensor:
    """The weight of a linear, or these rows of it, in fp32 [outputs, inputs], whatever its format."""
    weight, scale = linear.weight, getattr(linear, "weight_scale", None)
    if not isinstance(weight, Tensor):
        raise TypeError("a linear has a weight")
    some = weight[rows].float()
    return some if scale is None else some * scale[rows].unsqueeze(1)


def multiplied_out(name: str, tensor: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
    """A stored tensor in fp32: times its `scales[name + "_scale"]`, where it has one."""
    scale = scales.get(f"{name}_scale")
    return tensor.float() if scale is None else tensor.float() * scale.unsqueeze(1)


LINEARS: dict[str, type[Linear] | type[Int8Linear]] = {
    DENSE: Linear,
    INT8: Int8Linear,
    INT8_DYNAMIC: Int8DynamicLinear,
}
EMBEDDINGS: dict[str, type[Embedding] | type[Int8Embedding]] = {
    DENSE: Embedding,
    INT8: Int8Embedding,
    INT8_DYNAMIC: Int8Embedding,
}
