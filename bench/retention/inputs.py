"""Rivals that leave out columns instead of neurons: small inputs of gate and up, small values before down."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...compress.moefy.thresholds import ScoreHistogram
from ...models.progress import Progress
from .layer import LabLayer
from .method import CalibrationData, Form, Used, error_of

_SEARCHED_TOKENS = 1024
_STEPS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)


@dataclass
class Inputs:
    """TEAL (Liu et al. 2024): |x_j| above a threshold; WINA (Chen et al. 2025): |x_j| ||W_:,j||, without the rotation
    that makes columns orthogonal. How the bytes of a layer are split between gate and up, and down, is searched, as
    TEAL does; each layer has the same. As published there is no constant for what is left out.
    """

    weighted: bool = False
    compensate: bool = False
    group: str = "inputs"
    name: str = ""
    _layers: list[LabLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or ("WINA" if self.weighted else "TEAL") + ", with a constant" * self.compensate

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers = material.layers

    def form(self, index: int, x: Tensor, share: float) -> Form:
        layer, some = self._layers[index], x[:_SEARCHED_TOKENS]
        scored = 2 if layer.gated else 1
        splits = [(part, (scored + 1) * share - scored * part) for part in (share + step for step in _STEPS)]
        forms = [self._split(layer, x, *split) for split in splits if 0 < min(split) <= max(split) <= 1]
        return min(forms, key=lambda form: error_of(layer, some, form, self.compensate))

    def _split(self, layer: LabLayer, x: Tensor, inner: float, outer: float) -> Form:
        """inner: the share of the columns of gate and up that a token reads; outer: of those of down."""
        weights = layer.weights
        stacked = weights.up if weights.gate is None else torch.cat([weights.gate, weights.up])
        first, second = self._scale(stacked), self._scale(weights.down)
        low = _threshold(x.abs() * first, inner)
        high = _threshold(weights.hidden(_cut(x, first, low)).abs() * second, outer)

        def compute(given: Tensor) -> Used:
            kept = _cut(given, first, low)
            h = _cut(weights.hidden(kept), second, high)
            scored = 2 if layer.gated else 1
            read = (scored * kept.ne(0).float().mean(1) + h.ne(0).float().mean(1)) / (scored + 1)
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
