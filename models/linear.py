"""Linears and embeddings: twins with one call each, picked by the format that the spec names.

Whoever builds one says its sizes; the weights come from the checkpoint, so they start on the meta device.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..kernels.dense_linear import dense_linear
from ..kernels.digit_linear import DigitWeights, digit_linear, pack_digits
from ..kernels.graded.bytes import PLANES, GradedShape, graded_linear_bytes, int8_linear_bytes
from ..kernels.graded.layout import pack_graded
from ..kernels.graded_linear import GradedWeights, graded_linear
from ..kernels.int8_dynamic_linear import int8_dynamic_linear
from ..kernels.int8_linear import int8_linear
from .compute import Compute, Prices
from .spec import CENTRED, DENSE, GRADED, INT8, INT8_DYNAMIC

_INT8_MOST = 128  # of a weight
_WIDENED_ROWS = 256  # of int8 weights, in fp64 at a time


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

    def forward(self, x: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return dense_linear(x, self.weight, self.bias)


class Int8Rows(TensorModule):
    """int8 rows [outputs, inputs] with a scale each. Once packed for digits, that is their only copy, this module's
    or that of the group it joined; `weight` is empty then.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: nn.Parameter | None
    num_digits = 2  # of an activation

    def hold(self, inputs: int, outputs: int) -> None:
        """Makes room for the rows."""
        self.register_buffer("weight", torch.empty(outputs, inputs, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(outputs, dtype=torch.float32))
        self.digits: DigitWeights | None = None
        self.digit_rows = slice(0, outputs)  # of what is packed

    def pack_digits(self) -> DigitWeights:
        """Packs loaded weights."""
        bias = None if self.bias is None else self.bias.data
        self.digits = pack_digits(self.weight, self.weight_scale, bias, self.num_digits)
        self.digit_rows = slice(0, self.digits.outputs)
        replace_tensor(self, "weight", self.weight.new_empty(0, self.weight.shape[1]))
        return self.digits

    def join_digits(self, digits: DigitWeights, rows: slice) -> None:
        """Gives up its own weights for these rows of a packed group."""
        self.digits, self.digit_rows = digits, rows
        replace_tensor(self, "weight", self.weight.new_empty(0, self.weight.shape[1]))

    def by_rows(self, x: Tensor) -> Tensor:
        """The product with all rows."""
        if self.digits is None:
            return int8_linear(x, self.weight, self.weight_scale, self.bias)
        return digit_linear(x, self.digits)[..., self.digit_rows]

    def int8_rows(self, rows: slice = slice(None)) -> Tensor:
        """The int8 weights [outputs, inputs], or these rows of them, wherever they are held."""
        if self.digits is None:
            return self.weight[rows]
        begin, end, _ = rows.indices(self.digit_rows.stop - self.digit_rows.start)
        return self.digits.unpacked(slice(self.digit_rows.start + begin, self.digit_rows.start + end))


class Int8Linear(Int8Rows):
    """y = scale * (x Q^T) + b, Q int8 [outputs, inputs], scale fp32 [outputs]; x keeps its dtype."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.hold(inputs, outputs)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return self.by_rows(x)


class Int8DynamicLinear(Int8Linear):
    """The same weights with activations that are rounded to int8 as they come, one scale a token (W8A8)."""

    num_digits = 1

    def forward(self, x: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        if self.digits is not None:
            return self.by_rows(x)
        return int8_dynamic_linear(x, self.weight, self.weight_scale, self.bias)


class Graded(TensorModule):
    """int8 rows of which a token reads as many high bits for each input as that is worth to it.

    worth: fp32 [levels], kernels/graded_linear.py. Once loaded weights are packed, planes are their only copy,
    this module's or that of the group it joined; `weight` is empty then.
    """

    weight: Tensor
    weight_scale: Tensor
    worth: Tensor
    bias: nn.Parameter | None

    def grade(self, inputs: int, outputs: int, biased: bool) -> None:
        """Adds what grading needs to int8 rows [outputs, inputs]."""
        self.register_buffer("worth", torch.empty(len(PLANES), dtype=torch.float32))
        self.num_inputs, self.num_outputs = inputs, outputs
        self.counts_neurons = False  # whether its inputs are the neurons of an FFN
        self.held: GradedWeights | None = None
        self.is_part, self.rows = False, slice(0, outputs)  # of what is held
        shape = GradedShape(inputs, outputs, biased)
        self.whole_bytes = int8_linear_bytes(shape)
        self.prices = Prices(graded_linear_bytes(shape, 0), (outputs / 8,))  # of a bit of every weight of an input

    def take(self, int8: nn.Module, worth: Tensor) -> Self:
        """Takes the weights of a loaded int8 module."""
        for name, tensor in (*int8.named_parameters(), *int8.named_buffers()):
            replace_tensor(self, name, tensor.data)
        replace_tensor(self, "worth", worth)
        return self

    def pack(self) -> None:
        """Turns loaded weights into planes."""
        self.held = GradedWeights(pack_graded(self.weight), self.weight_scale, self.worth, self.added())
        replace_tensor(self, "weight", self.weight.new_empty(0, self.weight.shape[1]))

    def added(self) -> Tensor | None:
        """What is added to the product with planes, [outputs]."""
        return None if self.bias is None else self.bias.data

    def graded(self, x: Tensor) -> Tensor:
        """The inputs [.., inputs] as they are graded."""
        return x

    def join(self, group: "Graded", rows: slice) -> None:
        """Gives up its own weights for these rows of a packed group."""
        self.held, self.is_part, self.rows = group.held, True, rows
        replace_tensor(self, "weight", self.weight.new_empty(0, self.weight.shape[1]))

    def int8_rows(self, rows: slice = slice(None)) -> Tensor:
        """The int8 weights [outputs, inputs], or these rows of them, wherever they are held."""
        if self.held is None:
            return self.weight[rows]
        begin, end, _ = rows.indices(self.num_outputs)
        return self.held.packed.unpacked(slice(self.rows.start + begin, self.rows.start + end))

    def multiply(self, x: Tensor, compute: Compute | None, rows: Tensor | None = None) -> Tensor:
        """What the rows of a pass read of the weights at their thresholds, all of it without an account.

        x: [.., tokens, inputs], the tokens of every row of the pass; or [n, inputs], one token of each of `rows`, or of
        all rows without.
        """
        if self.held is None or self.is_part:
            return int8_linear(x, self.int8_rows(), self.weight_scale, self.bias)
        flat, tokens = x.flatten(0, -2), x.shape[-2] if x.dim() > 2 else 1
        if compute is None or compute.thresholds is None or compute.asked.all_full:
            if self.held.tiles is not None:
                return digit_linear(x, self.held.tiles)
            every = torch.zeros(len(flat), device=x.device)
            return graded_linear(flat, self.held, every).y.view(*x.shape[:-1], -1)
        asked = compute.thresholds if rows is None else compute.thresholds[rows]
        thresholds = asked.repeat_interleave(tokens) if tokens > 1 else asked
        found = graded_linear(flat, self.held, thresholds)
        compute.spent.note_graded(self.prices, found.bits, found.read if self.counts_neurons else None, tokens, rows)
        return found.y.view(*x.shape[:-1], -1)


class GradedLinear(Graded, Int8Linear):
    """The twin of Int8Linear that grades its inputs."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.grade(inputs, outputs, bias)

    def forward(self, x: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return self.multiply(x, compute, rows)


class CentredLinear(GradedLinear):
    """y = scale * ((x - c) Q^T) + (b + scale * (c Q^T)): the twin that grades how far inputs are from what they mostly
    are, which for GELU is not 0 (compress/moefy/centres.py). centre: c, fp32 [inputs].
    """

    centre: Tensor

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__(inputs, outputs, bias)
        self.register_buffer("centre", torch.empty(inputs, dtype=torch.float32))
        self.prices = Prices(self.prices.fixed + 4 * inputs, self.prices.parts)

    @property
    def most_added(self) -> Tensor:
        """What no output's part of c is above."""
        return _INT8_MOST * self.weight_scale.max() * self.centre.abs().sum()

    def added(self) -> Tensor:
        parts = torch.split(self.weight, _WIDENED_ROWS)
        shift = torch.cat([part.double() @ self.centre.double() for part in parts]).float() * self.weight_scale
        return shift if self.bias is None else shift + self.bias.data.float()

    def graded(self, x: Tensor) -> Tensor:
        return x.float() - self.centre

    def forward(self, x: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        if self.held is None:
            return self.by_rows(x)
        return self.multiply(self.graded(x), compute, rows).to(x.dtype)


class Embedding(TensorModule):
    """Rows of a table: ids [...] -> [..., hidden]. `project` is the tied head: hidden -> logits [..., vocab]."""

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, hidden_size))
        self.dtype: torch.dtype | None = None  # of what is looked up, where it is not the table's; `load` sets it

    def forward(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.weight)
        return rows if self.dtype is None else rows.to(self.dtype)

    def project(self, hidden: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return dense_linear(hidden, self.weight)


class Int8Embedding(Int8Rows):
    """The int8 twin of Embedding: one scale per row serves the lookup and the tied head alike."""

    bias = None

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__()
        self.hold(hidden_size, rows)
        self.dtype = torch.float32  # of what is looked up; `load` sets it to the model's

    def forward(self, ids: Tensor) -> Tensor:
        if self.digits is None:
            rows = functional.embedding(ids, self.weight).float()
        else:
            rows = self.digits.at(ids.flatten()).view(*ids.shape, -1).float()
        return (rows * self.weight_scale[ids].unsqueeze(-1)).to(self.dtype)

    def project(self, hidden: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return self.by_rows(hidden)


class GradedEmbedding(Graded, Int8Embedding):
    """The twin of Int8Embedding whose head grades its inputs; a row is looked up in the planes, whole."""

    bias = None

    def __init__(self, rows: int, hidden_size: int) -> None:
        super().__init__(rows, hidden_size)
        self.grade(hidden_size, rows, False)

    def forward(self, ids: Tensor) -> Tensor:
        if self.held is None:
            return Int8Embedding.forward(self, ids)
        rows = self.held.packed.at(ids.flatten()).view(*ids.shape, -1).float()
        return (rows * self.weight_scale[ids].unsqueeze(-1)).to(self.dtype)

    def project(self, hidden: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return self.multiply(hidden, compute, rows)


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
    some = (linear.int8_rows(rows) if isinstance(linear, Graded | Int8Rows) else weight[rows]).float()
    return some if scale is None else some * scale[rows].unsqueeze(1)


def multiplied_out(name: str, tensor: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
    """A stored tensor in fp32: times its `scales[name + "_scale"]`, where it has one."""
    scale = scales.get(f"{name}_scale")
    return tensor.float() if scale is None else tensor.float() * scale.unsqueeze(1)


LINEARS: dict[str, type[Linear] | type[Int8Linear]] = {
    DENSE: Linear,
    INT8: Int8Linear,
    INT8_DYNAMIC: Int8DynamicLinear,
    GRADED: GradedLinear,
    CENTRED: CentredLinear,
}
EMBEDDINGS: dict[str, type[Embedding] | type[Int8Embedding]] = {
    DENSE: Embedding,
    INT8: Int8Embedding,
    INT8_DYNAMIC: Int8Embedding,
    GRADED: GradedEmbedding,
}
