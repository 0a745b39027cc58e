"""Bit planes: the kernel's function on fitted int8 weights; and its parts taken away, one by one.

Thresholds come from the scores that the dense model has. A recipe's are set anew on those that its tier brings about.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...compress.moefy.budget import Allocation, PlaneScores, thresholds_for
from ...compress.moefy.fit import fitted
from ...compress.moefy.settings import MoefySettings
from ...kernels.plane_ffn import PlaneWeights, packed_weights, plane_ffn, plane_scores
from ...kernels.planes.bytes import plane_ffn_bytes
from ...kernels.planes.coarse import CoarseFit
from ...kernels.planes.layout import PACKED_BITS
from ...models.progress import Progress
from .layer import LabLayer
from .method import CalibrationData, Form, NotHere, Used, error_of

_NO_DOUBT = -1e-20  # a threshold that doubts of 0 are above
_SEARCHED_TOKENS = 1024
_TURNS = 2  # bits by bytes, then bytes by bits


@dataclass
class Planes:
    """bits: that route; refined_bits: of a neuron in doubt. allocation: one multiplier for all layers, or one for each.

    fit: whether coarse products are regressed and doubts known; fisher: whether importance is, else the column norms.
    Without a fit there are no doubts, and every neuron of enough value is refined.
    """

    bits: int
    refined_bits: int = 0  # 0: as a recipe that says nothing of it
    allocation: Allocation = "global"
    fit: bool = True
    fisher: bool = True
    compensate: bool = True
    name: str = ""
    group: str = "bit planes"
    _layers: list[LabLayer] = field(default_factory=list)
    weights: list[PlaneWeights] = field(default_factory=list)
    scores: list[PlaneScores] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = MoefySettings(router="bit_planes", bits=self.bits, refined_bits=self.refined_bits or None)
        self.refined_bits = settings.refined_beyond(self.bits)
        self.name = self.name or f"high {self.bits} bit{'s' * (self.bits > 1)}, then {self.refined_bits}"

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers = material.layers
        self.weights, self.scores = [], []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self.weights.append(self._fitted(layer, x, material.importance[i]))
            self.scores.append(self._observed(i, x))
            progress(f"{self.name}: fit", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        layer = self._layers[index]
        if self._price(layer, 0, 0) >= share * layer.whole_bytes:
            raise NotHere(f"the high {self.bits} bits alone are more than {share:.2f} of the bytes")
        seen = self.scores if self.allocation == "global" else [self._observed(index, x)]
        return self.at(index, thresholds_for(seen, share, self.allocation)[0])

    def at(self, index: int, threshold: float) -> Form:
        """The form of one layer at a threshold."""
        layer, weights = self._layers[index], self.weights[index]
        thresholds = self.scores[index].thresholds(threshold) if self.fit else torch.tensor([threshold, _NO_DOUBT])
        return lambda given: self._used(layer, weights, given, thresholds)

    def _used(self, layer: LabLayer, weights: PlaneWeights, x: Tensor, thresholds: Tensor) -> Used:
        thresholds = thresholds.expand(len(x), 2).contiguous()
        result = plane_ffn(x, weights, thresholds, self.bits, layer.weights.activation)
        spent = [self._price(layer, int(a), int(f)) for a, f in zip(result.active, result.fine, strict=True)]
        return Used(result.y, torch.tensor(spent) / layer.whole_bytes, result.active.float() / layer.width)

    def _fitted(self, layer: LabLayer, x: Tensor, importance: Tensor) -> PlaneWeights:
        worth = importance if self.fisher else layer.weights.down_norms
        fit = replace(layer.planes.fit, importance=worth.bfloat16())
        if self.fit:
            fit = fitted([x], layer.planes, self.bits, worth)
        planes = replace(layer.planes, fit=CoarseFit(*fit.tensors), refined_bits=self.refined_bits)
        return packed_weights(planes, self.bits)

    def _observed(self, index: int, x: Tensor) -> PlaneScores:
        layer = self._layers[index]
        scores = PlaneScores.unseen(layer.shape, self.bits, self.refined_bits)
        found = plane_scores(x, self.weights[index], self.bits, layer.weights.activation)
        scores.add(found if self.fit else found._replace(doubt=found.value * scores.ratio))
        return scores

    def _price(self, layer: LabLayer, active: int, fine: int) -> float:
        return plane_ffn_bytes(layer.shape, self.bits, active, fine, self.refined_bits)


@dataclass
class LayeredPlanes:
    """Bits chosen layer by layer: those that leave the least error on calibration text for the bytes that the layer
    gets, which one multiplier for all layers says; found anew for each share, which no checkpoint could store.
    """

    compensate: bool = True
    name: str = "high bits chosen layer by layer"
    group: str = "bit planes"
    _planes: list[Planes] = field(default_factory=list)
    _layers: list[LabLayer] = field(default_factory=list)
    _given: list[Tensor] = field(default_factory=list)
    _chosen: dict[float, list[Form]] = field(default_factory=dict)

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._planes, self._chosen = [Planes(bits) for bits in PACKED_BITS], {}
        self._layers, self._given = material.layers, material.given
        for planes in self._planes:
            planes.learn(material, progress)

    def form(self, index: int, x: Tensor, share: float) -> Form:
        if share not in self._chosen:
            self._chosen[share] = self._choose(share)
        return self._chosen[share][index]

    def _choose(self, share: float) -> list[Form]:
        if self._planes[0].scores[0].fixed_bytes >= share * self._layers[0].whole_bytes:
            raise NotHere(f"one high bit alone is more than {share:.2f} of the bytes")
        found = [0] * len(self._layers)
        for _ in range(_TURNS):
            seen = [self._planes[bits].scores[i] for i, bits in enumerate(found)]
            thresholds = thresholds_for(seen, share, "global")
            read = [scores.bytes_at(threshold) for scores, threshold in zip(seen, thresholds, strict=True)]
            found = [self._best(i, each) for i, each in enumerate(read)]
        seen = [self._planes[bits].scores[i] for i, bits in enumerate(found)]
        threshold = thresholds_for(seen, share, "global")[0]
        return [self._planes[bits].at(i, threshold) for i, bits in enumerate(found)]

    def _best(self, index: int, read: float) -> int:
        """Which of the planes errs least in a layer for so many bytes."""
        layer, x = self._layers[index], self._given[index][:_SEARCHED_TOKENS]
        errors = {}
        for i, planes in enumerate(self._planes):
            scores = planes.scores[index]
            if scores.fixed_bytes < read:
                threshold = thresholds_for([scores], read / scores.whole_bytes, "global")[0]
                errors[i] = error_of(layer, x, planes.at(index, threshold), self.compensate)
        return min(errors, key=lambda i: errors[i], default=0)
