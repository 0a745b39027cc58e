"""Bit planes: the kernel's function on fitted int8 weights; and its parts taken away, one by one.

Limits come from the scores that the dense model has. A recipe's are set anew on those that its tier brings about.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...compress.moefy.budget import Allocation, PlaneScores, limits_for
from ...compress.moefy.fit import fitted
from ...kernels.coarse import CoarseFit
from ...kernels.plane_bytes import plane_ffn_bytes
from ...kernels.plane_ffn import PlaneWeights, packed_weights, plane_ffn, plane_scores
from .layer import LabLayer
from .method import Form, Material, NotHere, Progress, Used

_NO_DOUBT = -1e-20  # a limit that doubts of 0 are above


@dataclass
class Planes:
    """bits: None is the default of the recipe. allocation: one multiplier for all layers, or one for each.

    fit: whether coarse products are regressed and doubts known; fisher: whether importance is, else the column norms.
    Without a fit there are no doubts, and every neuron of enough value is refined.
    """

    bits: int
    allocation: Allocation = "global"
    fit: bool = True
    fisher: bool = True
    compensate: bool = True
    name: str = ""
    group: str = "bit planes"
    _layers: list[LabLayer] = field(default_factory=list)
    _weights: list[PlaneWeights] = field(default_factory=list)
    _scores: list[PlaneScores] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or f"high {self.bits} bit{'s' * (self.bits > 1)}"

    def learn(self, material: Material, progress: Progress) -> None:
        self._layers = material.layers
        self._weights, self._scores = [], []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self._weights.append(self._fitted(layer, x, material.importance[i]))
            self._scores.append(self._observed(i, x))
            progress(f"{self.name}: fit", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        layer, weights = self._layers[index], self._weights[index]
        if self._price(layer, 0, 0) >= share * layer.whole_bytes:
            raise NotHere(f"the high {self.bits} bits alone are more than {share:.2f} of the bytes")
        seen = self._scores if self.allocation == "global" else [self._observed(index, x)]
        limit = limits_for(seen, share, self.allocation)[0]
        thresholds = seen[0].thresholds(limit) if self.fit else torch.tensor([limit, _NO_DOUBT])
        return lambda given: self._used(layer, weights, given, thresholds)

    def _used(self, layer: LabLayer, weights: PlaneWeights, x: Tensor, thresholds: Tensor) -> Used:
        limits = thresholds.expand(len(x), 2).contiguous()
        result = plane_ffn(x, weights, limits, self.bits, layer.weights.activation)
        spent = [self._price(layer, int(a), int(f)) for a, f in zip(result.active, result.fine, strict=True)]
        return Used(result.y, torch.tensor(spent) / layer.whole_bytes, result.active.float() / layer.width)

    def _fitted(self, layer: LabLayer, x: Tensor, importance: Tensor) -> PlaneWeights:
        worth = importance if self.fisher else layer.weights.down_norms
        fit = replace(layer.planes.fit, importance=worth.bfloat16())
        if self.fit:
            fit = fitted([x], layer.planes, self.bits, worth)
        return packed_weights(replace(layer.planes, fit=CoarseFit(*fit.tensors)), self.bits)

    def _observed(self, index: int, x: Tensor) -> PlaneScores:
        layer = self._layers[index]
        fixed, active, fine = (self._price(layer, *each) for each in ((0, 0), (layer.width, 0), (0, layer.width)))
        scores = PlaneScores(fixed, active - fixed, fine - fixed, layer.whole_bytes)
        found = plane_scores(x, self._weights[index], self.bits, layer.weights.activation)
        scores.add(found if self.fit else found._replace(doubt=found.value * scores.ratio))
        return scores

    def _price(self, layer: LabLayer, active: int, fine: int) -> float:
        return plane_ffn_bytes(layer.shape, self.bits, active, fine)
