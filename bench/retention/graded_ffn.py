"""Graded inputs in FFNs: of the columns of an input as many high bits are read as its size is worth, at one price for
all layers; the kernel's function.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from ...compress.moefy.centres import TOKENS, middle
from ...compress.moefy.grading import lowest_threshold
from ...compress.moefy.thresholds import ScoreHistogram
from ...kernels.activations import ACTIVATIONS
from ...kernels.graded.bytes import PLANES, GradedShape, graded_linear_bytes, level_bits
from ...kernels.graded.worth import halves, worth_of
from ...models.progress import Progress
from .layer import LabLayer
from .linears.thresholds import by_step
from .method import CalibrationData, Form, NotHere, Used
from .weights import FFNWeights

_SEARCHED_TOKENS = 512


@dataclass(frozen=True)
class GradedMatrix:
    """weights: of each level [outputs, inputs], none of the first; worth: fp32 [levels]; centre, of inputs, and what
    the whole matrix makes of it.
    """

    weights: list[Tensor]
    worth: Tensor
    shape: GradedShape
    seen: list[ScoreHistogram]  # of |x| worth, level by level
    centre: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def of(cls, q: Tensor, scale: Tensor, fisher: Tensor | float, x: Tensor, biased: bool, centred: bool) -> Self:
        """x: what the dense model gives it, [tokens, inputs]; fisher: what a unit of error of an output costs."""
        rows = scale.unsqueeze(1)
        weights = [halves(q, bits).float() / 2 * rows for bits in level_bits(PLANES)[1:-1]] + [q.float() * rows]
        worth, centre = worth_of(q, scale, fisher), middle(x[:TOKENS]) if centred else None
        sizes, seen = (x if centre is None else x - centre).abs(), [ScoreHistogram(squares=False) for _ in PLANES]
        for histogram, each in zip(seen, worth, strict=True):
            histogram.add(sizes * each)
        shift = None if centre is None else weights[-1] @ centre
        return cls(weights, worth, GradedShape(q.shape[1], len(q), biased), seen, centre, shift)

    def bytes_at(self, threshold: float) -> float:
        """What a token reads in the mean."""
        shares = (each.share_above(threshold) for each in self.seen)
        return self.price(self.shape.inputs * sum(share * bits for share, bits in zip(shares, PLANES, strict=True)))

    def price(self, bits: float) -> float:
        """Bytes of so many bits over all inputs."""
        return graded_linear_bytes(self.shape, bits) + (0 if self.centre is None else 4 * self.shape.inputs)

    def product(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """y [tokens, outputs] without a bias, and the bytes of each token."""
        given = x if self.centre is None else x - self.centre
        level = by_step(given.abs(), (threshold / self.worth).unsqueeze(1)).int()
        y = given.new_zeros(len(x), self.shape.outputs)
        for i, weights in enumerate(self.weights):
            y += functional.linear(torch.where(level == i + 1, given, 0.0), weights)
        bits = level.new_tensor(level_bits(PLANES))[level].sum(1)
        return y if self.shift is None else y + self.shift, self.price(0.0) + bits * (self.shape.outputs / 8)


@dataclass
class GradedInputs:
    """centred: inputs of down count from where they rest (compress/moefy/centres.py)."""

    centred: bool = False
    compensate: bool = False
    name: str = ""
    group: str = "graded inputs"
    _layers: list[LabLayer] = field(default_factory=list)
    _matrices: list[tuple[GradedMatrix, GradedMatrix]] = field(default_factory=list)  # gate and up; down

    def __post_init__(self) -> None:
        self.name = self.name or "graded inputs" + ", those of down about a centre" * self.centred

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers, self._matrices = material.layers, []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self._matrices.append(self._matrices_of(layer, x.float(), material.importance[i]))
            progress(f"{self.name}: what an input is worth", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        """What the layer reads is of the dense model's; at which threshold, of what the layers before it give now."""
        planned = sum(each.bytes_at(self._threshold(share)) for each in self._matrices[index])
        some = x[:: max(1, len(x) // _SEARCHED_TOKENS)]
        whole = self._layers[index].whole_bytes
        threshold = lowest_threshold(planned, lambda each: whole * float(self._used(index, some, each).bytes.mean()))
        return partial(self._used, index, threshold=threshold)

    def _used(self, index: int, x: Tensor, threshold: float) -> Used:
        layer, (inner, outer) = self._layers[index], self._matrices[index]
        made, read = inner.product(x.float(), threshold)
        h = _activated(made + _biases(layer.weights), layer.weights)
        y, more = outer.product(h, threshold)
        y = y if layer.down_bias is None else y + layer.down_bias
        return Used(y, (read + more) / layer.whole_bytes, h.ne(0).float().mean(1))

    def _threshold(self, share: float) -> float:
        """Of all layers, so that the mean of what they read is this share."""
        matrices = [each for pair in self._matrices for each in pair]
        budget = share * sum(layer.whole_bytes for layer in self._layers)
        if sum(each.price(0.0) for each in matrices) > budget:
            raise NotHere(f"what every token reads of graded inputs is more than {share:.2f} of the bytes")
        return lowest_threshold(budget, lambda threshold: sum(each.bytes_at(threshold) for each in matrices))

    def _matrices_of(self, layer: LabLayer, x: Tensor, importance: Tensor) -> tuple[GradedMatrix, GradedMatrix]:
        """What an error of a neuron's value costs is known of each; of an output of down, the mean that follows."""
        weights, planes = layer.weights, layer.planes
        h, slope = _neurons(weights, x)
        squares = importance.square()
        inner = slope.square().mean(0) * (squares if weights.gate is None else squares.repeat(2))
        rows = [(planes.up, planes.up_scale)]
        if planes.gate is not None and planes.gate_scale is not None:
            rows.insert(0, (planes.gate, planes.gate_scale))
        q, scale = (torch.cat(each) for each in zip(*rows, strict=True))
        outer = float(squares.sum() / weights.down_norms.square().sum())
        return (
            GradedMatrix.of(q, scale, inner, x, weights.up_bias is not None, False),
            GradedMatrix.of(planes.down, planes.down_scale, outer, h, layer.down_bias is not None, self.centred),
        )


def _neurons(weights: FFNWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    """h [tokens, width], and its derivative by each product that it is made of, the gate's first, side by side."""
    with torch.enable_grad():
        made = (functional.linear(x, _stacked(weights)) + _biases(weights)).requires_grad_()
        h = _activated(made, weights)
        [slope] = torch.autograd.grad(h.sum(), [made])
    return h.detach(), slope


def _activated(made: Tensor, weights: FFNWeights) -> Tensor:
    """h of the products of the gate, where there is one, and of up."""
    first, *up = torch.split(made, len(weights.up), -1)
    h = ACTIVATIONS[weights.activation](first)
    return h * up[0] if up else h


def _stacked(weights: FFNWeights) -> Tensor:
    return weights.up if weights.gate is None else torch.cat([weights.gate, weights.up])


def _biases(weights: FFNWeights) -> Tensor:
    """Of what `_stacked` makes."""
    none = torch.zeros(len(weights.up))
    found = [none if each is None else each for each in (weights.gate_bias, weights.up_bias)]
    return torch.cat(found[weights.gate is None :])
