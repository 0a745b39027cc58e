"""Linears as graded inputs compute them at a tier, in a form that passes gradients to their weights.

`kernels/graded_linear.py` says what is computed. Here the weights are floating point; each is rounded as it would be
stored, and of the result as many high bits are taken as the input of its column is worth at the tier's threshold. The
gradient goes through both as if there were none: to a weight that of the int8 product over the inputs that are read, to
an input that is read that of the whole int8 weight. What inputs are worth, and the threshold, stay what calibration
found. Activations keep their own arithmetic, which in training is coarser than the 16 bits of the kernel.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ...kernels.graded.bytes import PLANES, level_bits
from ...kernels.graded.digits import graded_levels
from ...models.compute import Compute
from ...models.linear import Embedding, Linear, TensorModule
from .straight_through import fake_int8, high_bits, int8_units


class StoredRows(NamedTuple):
    """A weight as its int8 rows hold it, in units of their scale: bf16 [outputs, inputs], in which all of it is exact.

    off: by level, from the first, what the bits of that level give more than all bits do; the last gives no more.
    """

    whole: Tensor
    off: tuple[Tensor, ...]
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "StoredRows":
        whole, scale = int8_units(weight)
        off = tuple((high_bits(whole, bits) - whole).bfloat16() for bits in level_bits(PLANES)[1:-1])
        return cls(whole.bfloat16(), off, scale)


class AtTier(TensorModule):
    """A weight that is computed as at a tier as long as `at_tier`, else as whole int8.

    worth: fp32 [levels], None for weights that the tier reads whole; threshold: the tier's. centre: fp32 [inputs],
    of a `CentredLinear`.
    """

    weight: nn.Parameter
    centre: Tensor | None

    def put(self, worth: Tensor | None, threshold: float) -> None:
        """What calibration found."""
        self.worth, self.threshold, self.at_tier, self.centre = worth, threshold, False, None
        self.round_again()

    def round_again(self) -> None:
        """To be called whenever the weights have moved. A fused optimizer moves them without a trace."""
        self._stored: StoredRows | None = None

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """What is read of the weights times x [.., inputs], in the dtype of x or that of autocast."""
        flat = x.flatten(0, -2)
        if not self.at_tier or self.worth is None:
            y = self._times(flat)
        elif self.centre is None:
            y = self._times(flat, self._levels(flat, self.worth))
        else:
            centre = self.centre.to(x.dtype).unsqueeze(0)
            y = self._times(flat - centre, self._levels(flat - centre, self.worth)) + self._times(centre)
        y = y.view(*x.shape[:-1], -1)
        return y if bias is None else y + bias.to(y.dtype)

    def _levels(self, x: Tensor, worth: Tensor) -> Tensor:
        return graded_levels(x, worth, torch.full((len(x),), self.threshold, device=x.device))

    def _times(self, x: Tensor, levels: Tensor | None = None) -> Tensor:
        """x: [tokens, inputs]; levels None: every bit."""
        y: Tensor = _Product.apply(x, self.weight, self._rows(), levels, _dtype(x))  # type: ignore[no-untyped-call]
        return y

    def _rows(self) -> StoredRows:
        if self._stored is None:
            with torch.inference_mode(False), torch.no_grad():  # it outlives the pass, and backward keeps it
                self._stored = StoredRows.of(self.weight)
        return self._stored


class TierLinear(AtTier, Linear):
    """The twin of a dense `Linear` over the same parameters."""

    @classmethod
    def of(cls, linear: Linear, worth: Tensor | None, threshold: float) -> "TierLinear":
        with torch.device("meta"):
            twin = cls(linear.weight.shape[1], linear.weight.shape[0], False)
        twin.weight, twin.bias = linear.weight, linear.bias
        twin.put(worth, threshold)
        return twin

    def forward(self, x: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return self.product(x, self.bias)


class TierEmbedding(AtTier, Embedding):
    """The twin of a dense `Embedding` over the same table; what is looked up is whole int8 at any tier."""

    @classmethod
    def of(cls, embedding: Embedding, worth: Tensor | None, threshold: float) -> "TierEmbedding":
        with torch.device("meta"):
            twin = cls(*embedding.weight.shape)
        twin.weight, twin.dtype = embedding.weight, embedding.dtype
        twin.put(worth, threshold)
        return twin

    def forward(self, ids: Tensor) -> Tensor:
        rows = functional.embedding(ids, self.weight)
        whole = fake_int8(rows.flatten(0, -2)).view(rows.shape)
        return whole if self.dtype is None else whole.to(self.dtype)

    def project(self, hidden: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        return self.product(hidden, None)


class _Product(Function):
    """x times the weights as far as they are read; levels int64 [tokens, inputs], None for all of them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stored: StoredRows, levels: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        read = (x if levels is None else x * (levels > 0)).to(dtype)
        y = functional.linear(read, stored.whole.to(dtype))
        if levels is not None:
            for level, off in enumerate(stored.off, start=1):
                y += functional.linear(torch.where(levels == level, read, 0), off.to(dtype))
        ctx.save_for_backward(read, stored.whole, stored.scale, None if levels is None else levels > 0)
        ctx.dtypes = x.dtype, weight.dtype
        return (y * stored.scale).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        read, whole, scale, where = ctx.saved_tensors
        dx = (grad * scale).to(grad.dtype) @ whole.to(grad.dtype)
        dx = dx if where is None else dx * where
        return dx.to(ctx.dtypes[0]), (grad.T @ read).to(ctx.dtypes[1]), None, None, None


def _dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
