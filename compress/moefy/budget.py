"""Which thresholds spend a tier's bytes best: a byte goes where it removes most of the expected loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ...kernels.planes.bytes import FFNShape, int8_ffn_bytes, plane_ffn_bytes
from ...kernels.planes.choice import NeuronScores
from ...models.ffn.planes import PlaneFFN
from .thresholds import ScoreHistogram

Allocation = Literal["global", "uniform"]
_BISECTIONS = 48
_LOWEST, _HIGHEST = -44.0, 24.0  # powers of 2
EVERYTHING = -1.0  # below every score


def _counted() -> ScoreHistogram:
    return ScoreHistogram(squares=False)


@dataclass(slots=True)
class PlaneScores:
    """How the scores of one layer are spread, and what all its rows of down and all its low planes cost.

    A neuron's score^2 / 2 is what it is worth in nats (kernels/planes/choice.py). One threshold buys both rows of down
    and low planes, these at threshold * ratio with ratio^2 = low_bytes / down_bytes: a byte then has one price. The
    histograms hold the thresholds below which neurons do what their names say, were there one for all.
    """

    fixed_bytes: float
    down_bytes: float
    low_bytes: float
    whole_bytes: float
    foreseen: ScoreHistogram = field(default_factory=_counted)  # of enough value as foreseen
    refined: ScoreHistogram = field(default_factory=_counted)
    both: ScoreHistogram = field(default_factory=_counted)
    confirmed: ScoreHistogram = field(default_factory=_counted)  # refined, and of enough value then
    sizes: Tensor | None = None  # of the tiles, where they differ

    @classmethod
    def unseen(cls, shape: FFNShape, bits: int, refined_bits: int) -> "PlaneScores":
        """What the parts of such an FFN cost, with no score seen yet."""
        counts = ((0, 0), (shape.width, 0), (0, shape.width))
        none, down, low = (plane_ffn_bytes(shape, bits, *each, refined_bits) for each in counts)
        return cls(none, down - none, low - none, int8_ffn_bytes(shape))

    @classmethod
    def of(cls, ffn: PlaneFFN) -> "PlaneScores":
        return cls(ffn.fixed_bytes, ffn.down_bytes, ffn.low_bytes, ffn.whole_bytes, sizes=ffn.tile_sizes)

    @property
    def ratio(self) -> float:
        return math.sqrt(self.low_bytes / self.down_bytes)

    def add(self, scores: NeuronScores) -> Tensor:
        """Takes in what tokens see, [.., tiles] each; returns the thresholds below which anything is read of them."""
        refined = scores.refined_below(self.ratio)
        self.foreseen.add(scores.value, self.sizes)
        self.refined.add(refined, self.sizes)
        self.both.add(torch.minimum(scores.value, refined), self.sizes)
        self.confirmed.add(torch.minimum(scores.known, refined), self.sizes)
        return torch.maximum(scores.value, refined)

    def shares_at(self, threshold: float) -> tuple[float, float, float]:
        """The shares of neurons whose rows of down are read, that are refined, and of which anything is read."""
        refined, coarse = self.refined.share_above(threshold), self._coarse(threshold)
        return coarse + self.confirmed.share_above(threshold), refined, coarse + refined

    def bytes_at(self, threshold: float) -> float:
        """What a lone token reads."""
        computed, refined, _ = self.shares_at(threshold)
        return self.fixed_bytes + computed * self.down_bytes + refined * self.low_bytes

    def _coarse(self, threshold: float) -> float:
        return max(0.0, self.foreseen.share_above(threshold) - self.both.share_above(threshold))

    def thresholds(self, threshold: float) -> Tensor:
        """Both thresholds where this is the first, fp32 [2]."""
        return torch.tensor([threshold, threshold if threshold < 0 else threshold * self.ratio])


def thresholds_for(layers: Sequence[PlaneScores], share: float, allocation: Allocation) -> list[float]:
    """Each layer's threshold, so that a lone token reads this share of the FFNs' bytes: one for all, or its own."""
    if allocation == "global":
        return [_threshold(layers, share)] * len(layers)
    return [_threshold([layer], share) for layer in layers]


def _threshold(layers: Sequence[PlaneScores], share: float) -> float:
    budget = share * sum(layer.whole_bytes for layer in layers)

    def fits(power: float) -> bool:
        return sum(layer.bytes_at(2.0**power) for layer in layers) <= budget

    if sum(layer.fixed_bytes + layer.down_bytes + layer.low_bytes for layer in layers) <= budget:
        return EVERYTHING
    low, high = _LOWEST, _HIGHEST
    if fits(low):
        return math.exp2(low)  # all but what is certain to give 0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return math.exp2(high)
