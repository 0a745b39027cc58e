"""One FFN as every method of the curves sees it: int8 weights, one scale a row, computed in fp32."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ...compress.quantize.int8 import quantize_rows
from ...kernels.activations import ACTIVATIONS
from ...models.ffn import FFN
from ...models.linear import dense_weight


@dataclass(frozen=True)
class Matrix:
    """int8 rows [out, in] with a scale each [out], a bias or None, and the fp32 matrix that they spell."""

    rows: Tensor
    scale: Tensor
    bias: Tensor | None
    weight: Tensor

    @classmethod
    def of(cls, linear: object) -> "Matrix":
        rows, scale = quantize_rows(dense_weight(linear).float())  # type: ignore[arg-type]
        bias = getattr(linear, "bias", None)
        weight = rows.float() * scale.unsqueeze(1)
        return cls(rows, scale, None if bias is None else bias.detach().float(), weight)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def coarse(self, bits: int) -> Tensor:
        """What the high bits alone spell, fp32 [out, in]: s (p 2^(8-b) + 2^(7-b) - 1/2)."""
        step = 1 << (8 - bits)
        return ((self.rows >> (8 - bits)).float() * step + step / 2 - 0.5) * self.scale.unsqueeze(1)


@dataclass
class LabLayer:
    """gate (None without one) and up [width, hidden], down [hidden, width]."""

    up: Matrix
    down: Matrix
    gate: Matrix | None
    activation: str
    _coarse: dict[int, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, ffn: FFN) -> "LabLayer":
        gate = None if ffn.gate is None else Matrix.of(ffn.gate)
        return cls(Matrix.of(ffn.up), Matrix.of(ffn.down), gate, ffn.activation_name)

    @property
    def hidden_size(self) -> int:
        return len(self.down.rows)

    @property
    def width(self) -> int:
        return len(self.up.rows)

    @property
    def scored(self) -> list[Matrix]:
        """The matrices that a token meets first: gate, where there is one, and up."""
        return [self.up] if self.gate is None else [self.gate, self.up]

    @property
    def matrices(self) -> int:
        return 1 + len(self.scored)

    @cached_property
    def norms(self) -> Tensor:
        """||D_n||, fp32 [width]."""
        return self.down.weight.norm(dim=0)

    def act(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](x)

    def slope(self, x: Tensor) -> Tensor:
        """The derivative of the activation at x."""
        with torch.inference_mode(False), torch.enable_grad():
            at = x.clone().requires_grad_()
            slope: Tensor = torch.autograd.grad(self.act(at).sum(), at)[0]
        return slope

    def values(self, x: Tensor) -> Tensor:
        """h [tokens, width]."""
        return self.product([matrix(x) for matrix in self.scored])

    def coarse_parts(self, x: Tensor, bits: int) -> list[Tensor]:
        """Of gate, where there is one, and up: what the high bits give, [tokens, width] each."""
        if bits not in self._coarse:
            self._coarse = {bits: [matrix.coarse(bits) for matrix in self.scored]}
        pairs = zip(self._coarse[bits], self.scored, strict=True)
        return [functional.linear(x, weight, matrix.bias) for weight, matrix in pairs]

    def product(self, parts: list[Tensor]) -> Tensor:
        return self.act(parts[0]) if len(parts) == 1 else self.act(parts[0]) * parts[1]
