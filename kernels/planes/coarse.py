"""What the high bits of int8 weights foresee of a neuron: its value, and how far off that may be.

A coarse product z of one row is taken as normal about scale dot + bias, with a standard deviation `error`, all three
found by regression on calibration text. The activation of such a number has a mean and a deviation of its own:

    relu      m = e (t P(t) + p(t)),  s^2 = e^2 ((t^2 + 1) P(t) + t p(t)) - m^2,  t = z / e
    the rest  m = act(z),             s = |act'(z)| e, to first order

with P and p the distribution function and the density of the normal distribution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..activations import ACTIVATIONS


@dataclass(frozen=True)
class CoarseFit:
    """scale, bias, error: [scored, width], of gate, where there is one, then up; importance: [width]. All bf16.

    importance: what a unit of the neuron's value is worth; the norm of its column of down, or better.
    """

    scale: Tensor
    bias: Tensor
    error: Tensor
    importance: Tensor

    @classmethod
    def unfitted(cls, scales: Sequence[Tensor], biases: Sequence[Tensor | None], importance: Tensor) -> "CoarseFit":
        """The coarse rows taken at their word: the scales of the exact ones [width], and no doubt."""
        scale = torch.stack(list(scales))
        given = [torch.zeros_like(scale[0]) if bias is None else bias for bias in biases]
        parts = (scale, torch.stack(given), torch.zeros_like(scale), importance)
        return cls(*(part.detach().bfloat16() for part in parts))

    @property
    def tensors(self) -> list[Tensor]:
        return [self.scale, self.bias, self.error, self.importance]


FITTED_BYTES = 2  # bf16


def fitted_vectors(scored: int) -> int:
    """Numbers of a fit for each neuron."""
    return 3 * scored + 1


def foresee(parts: list[Tensor], fit: CoarseFit, activation: str) -> tuple[Tensor, Tensor]:
    """(value, deviation) of h = act(up x) or act(gate x) * (up x), fp32 [tokens, width].

    parts: the fitted coarse products, [tokens, width], of gate, where there is one, and up. With a gate of mean m and
    deviation s, and an up of mean u and error e: m u, and sqrt((s u)^2 + (m e)^2).
    """
    value, deviation = _moments(parts[0], fit.error[0].float(), activation)
    if len(parts) == 1:
        return value, deviation
    up, error = parts[1], fit.error[1].float()
    return value * up, torch.sqrt((deviation * up).square() + (value * error).square())


def _moments(z: Tensor, error: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    if activation == "relu":
        return _relu_moments(z, error)
    return ACTIVATIONS[activation](z), _slope(z, activation).abs() * error


def _relu_moments(z: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    t = z / error.clamp(min=_LEAST)
    below, density = torch.special.ndtr(t), torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
    mean = (error * (t * below + density)).clamp(min=0)
    second = error.square() * ((t.square() + 1) * below + t * density)
    known = error <= _LEAST
    mean = torch.where(known, z.relu(), mean)
    return mean, torch.where(known, 0.0, (second - mean.square()).clamp(min=0).sqrt())


_LEAST = 1e-20


def _slope(z: Tensor, activation: str) -> Tensor:
    """The slope of the activation at z; gelu_tanh has that of gelu, which it imitates."""
    if activation == "silu":
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))
    below: Tensor = torch.special.ndtr(z)
    return below + z * torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
