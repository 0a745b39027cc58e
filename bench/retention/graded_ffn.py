"""Graded inputs in FFNs: of the columns of an input as many high bits are read as its size is worth, at one price for
all layers, by the linears that serve.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...compress.moefy.centres import TOKENS, middle
from ...compress.moefy.grading import GradedScores, lowest_threshold, threshold_for
from ...kernels.activations import ACTIVATIONS
from ...kernels.graded.worth import worth_of
from ...kernels.graded_linear import graded_linear
from ...models.linear import CentredLinear, GradedLinear, replace_tensor
from ...models.progress import Progress
from .layer import LabLayer
from .method import CalibrationData, Form, NotHere, Used
from .weights import FFNWeights

_SEARCHED_TOKENS = 512


@dataclass
class GradedInputs:
    """centred: inputs of down count from where they rest (compress/moefy/centres.py)."""

    centred: bool = False
    compensate: bool = False
    name: str = ""
    group: str = "graded inputs"
    _layers: list[LabLayer] = field(default_factory=list)
    _scores: list[tuple[GradedScores, GradedScores]] = field(default_factory=list)  # gate and up; down

    def __post_init__(self) -> None:
        self.name = self.name or "graded inputs" + ", those of down about a centre" * self.centred

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers, self._scores = material.layers, []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self._scores.append(self._scores_of(layer, x.float(), material.importance[i]))
            progress(f"{self.name}: what an input is worth", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        """What the layer reads is of the dense model's; at which threshold, of what the layers before it give now."""
        planned = sum(each.bytes_at(self._threshold(share)) for each in self._scores[index])
        some = x[:: max(1, len(x) // _SEARCHED_TOKENS)]
        whole = self._layers[index].whole_bytes
        threshold = lowest_threshold(planned, lambda each: whole * float(self._used(index, some, each).bytes.mean()))
        return partial(self._used, index, threshold=threshold)

    def _used(self, index: int, x: Tensor, threshold: float) -> Used:
        layer, (inner, outer) = self._layers[index], self._scores[index]
        made, read = _product(inner, x.float(), threshold)
        h = _activated(made, layer.weights)
        y, more = _product(outer, h, threshold)
        return Used(y, (read + more) / layer.whole_bytes, h.ne(0).float().mean(1))

    def _threshold(self, share: float) -> float:
        """Of all layers, so that the mean of what they read is this share."""
        scores = [each for pair in self._scores for each in pair]
        if sum(each.linear.prices.fixed for each in scores) > share * sum(each.linear.whole_bytes for each in scores):
            raise NotHere(f"what every token reads of graded inputs is more than {share:.2f} of the bytes")
        return threshold_for(scores, share)

    def _scores_of(self, layer: LabLayer, x: Tensor, importance: Tensor) -> tuple[GradedScores, GradedScores]:
        """What an error of a neuron's value costs is known of each; of an output of down, the mean that follows."""
        weights, planes = layer.weights, layer.planes
        h, slope = _neurons(weights, x)
        squares = importance.square()
        inner = slope.square().mean(0) * (squares if weights.gate is None else squares.repeat(2))
        outer = float(squares.sum() / weights.down_norms.square().sum())
        rows, scales = [planes.gate, planes.up], [planes.gate_scale, planes.up_scale]
        made = [torch.cat([each for each in parts if each is not None]) for parts in (rows, scales)]
        centre = middle(h[:TOKENS]) if self.centred else None
        linears = (
            _linear(made[0], made[1], inner, _biases(weights)),
            _linear(planes.down, planes.down_scale, outer, layer.down_bias, centre),
        )
        first, second = map(GradedScores, linears)
        first.add(x)
        second.add(h)
        return first, second


def _linear(
    q: Tensor, scale: Tensor, fisher: Tensor | float, bias: Tensor | None, centre: Tensor | None = None
) -> GradedLinear:
    """fisher: what a unit of error of an output costs, [outputs] or alike."""
    with torch.device("meta"):
        linear = (GradedLinear if centre is None else CentredLinear)(q.shape[1], len(q), bias is not None)
    given = {"weight": q, "weight_scale": scale, "worth": worth_of(q, scale, fisher), "bias": bias, "centre": centre}
    for name, tensor in given.items():
        if tensor is not None:
            replace_tensor(linear, name, tensor)
    linear.pack()
    return linear


def _product(scores: GradedScores, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """y [tokens, outputs], and the bytes of each token."""
    linear = scores.linear
    if linear.held is None:
        raise TypeError("a graded linear is packed before it multiplies")
    found = graded_linear(linear.graded(x), linear.held, x.new_full((len(x),), threshold))
    return found.y, linear.prices.fixed + found.bits * linear.prices.parts[0]


def _neurons(weights: FFNWeights, x: Tensor) -> tuple[Tensor, Tensor]:
    """h [tokens, width], and its derivative by each product that it is made of, the gate's first, side by side."""
    both = weights.up if weights.gate is None else torch.cat([weights.gate, weights.up])
    with torch.enable_grad():
        made = functional.linear(x, both, _biases(weights)).requires_grad_()
        h = _activated(made, weights)
        [slope] = torch.autograd.grad(h.sum(), [made])
    return h.detach(), slope


def _activated(made: Tensor, weights: FFNWeights) -> Tensor:
    """h of the products of the gate, where there is one, and of up."""
    first, *up = torch.split(made, len(weights.up), -1)
    h = ACTIVATIONS[weights.activation](first)
    return h * up[0] if up else h


def _biases(weights: FFNWeights) -> Tensor | None:
    """Of gate and up, one above the other; a matrix of a pair that has none has zeros."""
    found = [weights.up_bias] if weights.gate is None else [weights.gate_bias, weights.up_bias]
    if all(each is None for each in found):
        return None
    return torch.cat([torch.zeros(len(weights.up)) if each is None else each for each in found])
