"""Rivals that leave out columns instead of neurons: small inputs of gate and up, small values before down."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...compress.moefy.thresholds import ScoreHistogram
from .layer import LabLayer
from .method import Form, Material, Progress, Used


@dataclass
class Inputs:
    """TEAL (Liu et al. 2024): |x_j| above a threshold; WINA (Chen et al. 2025): |x_j| ||W_:,j||. As published, with no
    constant for what is left out and the same share of each matrix.
    """

    weighted: bool = False
    compensate: bool = False
    group: str = "inputs"
    name: str = ""
    _layers: list[LabLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or ("WINA" if self.weighted else "TEAL")

    def learn(self, material: Material, progress: Progress) -> None:
        self._layers = material.layers

    def form(self, index: int, x: Tensor, share: float) -> Form:
        layer = self._layers[index]
        weights = layer.weights
        stacked = weights.up if weights.gate is None else torch.cat([weights.gate, weights.up])
        first, second = self._scale(stacked), self._scale(weights.down)
        low = _threshold(x.abs() * first, share)
        high = _threshold(weights.hidden(_cut(x, first, low)).abs() * second, share)

        def compute(given: Tensor) -> Used:
            kept = _cut(given, first, low)
            h = _cut(weights.hidden(kept), second, high)
            scored = 2 if layer.gated else 1
            inner, outer = (each.ne(0).float().mean(1) for each in (kept, h))
            read = (scored * inner + outer) / (scored + 1)
            return Used(layer.output(h), read, torch.ones_like(read))

        return compute

    def _scale(self, matrix: Tensor) -> Tensor:
        return matrix.norm(dim=0) if self.weighted else torch.ones(matrix.shape[1])


def _cut(x: Tensor, scale: Tensor, threshold: float) -> Tensor:
    return torch.where(x.abs() * scale > threshold, x, torch.zeros_like(x))


def _threshold(scores: Tensor, share: float) -> float:
    histogram = ScoreHistogram()
    histogram.add(scores)
    return histogram.threshold_for_share(share)
