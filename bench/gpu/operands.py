"""Random weights that every contestant is made of, and the answer in fp64 that all are held against.

All start from the same int8 numbers and scales, made on the device: who multiplies in floating point gets them
multiplied out, and rounded to its own dtype.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.activations import ACTIVATIONS
from ...kernels.expert_ffn import ExpertWeights
from .sizes import Width


def int8_matrix(rows: int, columns: int, device: str) -> Tensor:
    return torch.randint(-127, 128, (rows, columns), device=device, dtype=torch.int8)


def row_scales(rows: int, inputs: int, device: str) -> Tensor:
    """Scales that make outputs about as large as inputs, and no two rows alike."""
    return (torch.rand(rows, device=device) + 0.5) / (73 * math.sqrt(inputs))  # 73: of uniform int8 the deviation


@dataclass(frozen=True)
class LinearWeights:
    """weight: int8 [outputs, inputs]; scale: fp32 [outputs]."""

    weight: Tensor
    scale: Tensor

    @classmethod
    def random(cls, outputs: int, inputs: int, device: str) -> Self:
        return cls(int8_matrix(outputs, inputs, device), row_scales(outputs, inputs, device))

    def dense(self, dtype: torch.dtype) -> Tensor:
        return (self.weight * self.scale[:, None]).to(dtype)

    def exact(self, x: Tensor) -> Tensor:
        return functional.linear(x.double(), self.weight.double() * self.scale.double()[:, None])

    def copy(self) -> Self:
        """The same numbers in other memory."""
        return type(self)(self.weight.clone(), self.scale)


@dataclass(frozen=True)
class FFNWeights:
    """up, gate, down: int8 [width, hidden], down neuron-major; scales fp32, of down [hidden]."""

    width: Width
    up: LinearWeights
    gate: LinearWeights | None
    down: Tensor
    down_scale: Tensor

    @classmethod
    def random(cls, width: Width, device: str) -> Self:
        gate = LinearWeights.random(width.width, width.hidden, device) if width.gated else None
        up = LinearWeights.random(width.width, width.hidden, device)
        down = int8_matrix(width.width, width.hidden, device)
        return cls(width, up, gate, down, row_scales(width.hidden, width.width, device))

    def joined(self) -> LinearWeights:
        """gate over up, as models pack them."""
        if self.gate is None:
            return self.up.copy()
        return LinearWeights(torch.cat([self.gate.weight, self.up.weight]), torch.cat([self.gate.scale, self.up.scale]))

    def output(self) -> LinearWeights:
        """down as a linear, [hidden, width]."""
        return LinearWeights(self.down.t().contiguous(), self.down_scale)

    def experts(self, dtype: torch.dtype | None = None) -> ExpertWeights:
        """The same weights in this dtype, or in int8."""
        if dtype is None:
            gates = (None, None) if self.gate is None else (self.gate.weight.clone(), self.gate.scale)
            parts = dict(up_scale=self.up.scale, gate_scale=gates[1], down_scale=self.down_scale)
            return ExpertWeights(self.up.weight.clone(), self.down.clone(), gates[0], **parts)
        gate = None if self.gate is None else self.gate.dense(dtype)
        return ExpertWeights(self.up.dense(dtype), (self.down * self.down_scale).to(dtype), gate)

    def exact(self, x: Tensor, active: Tensor | None) -> Tensor:
        """The answer in fp64. active: bool [tokens, experts]; None is all of them."""
        h = activated(self.joined().exact(x), self.width)
        if active is not None:
            h = h * active.repeat_interleave(self.width.expert, dim=1)[:, : self.width.width]
        return h @ (self.down.double() * self.down_scale.double())


def activated(up: Tensor, width: Width) -> Tensor:
    """The activation of gate beside up, or of up alone."""
    act = ACTIVATIONS[width.activation]
    if not width.gated:
        return act(up)
    gate, value = up.chunk(2, dim=-1)
    return act(gate) * value
