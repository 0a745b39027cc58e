"""Which thresholds spend a tier's bytes best: a byte goes where it removes most of the expected loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ...models.experts import ExpertFFN
from .thresholds import ScoreHistogram

Allocation = Literal["global", "uniform"]
_BISECTIONS = 48
_LOWEST, _HIGHEST = -44.0, 24.0  # powers of 2
EVERYTHING = -1.0  # below every score


@dataclass(slots=True)
class PlaneScores:
    """How the scores of one layer are spread, and what all its rows of down and all its low planes cost.

    Left out, a neuron costs value^2 / 2 nats; taken coarse, doubt^2 / 2. One multiplier buys both: compute where
    value > limit, read the low planes where doubt > ratio limit as well, ratio^2 = low_bytes / down_bytes.
    """

    fixed_bytes: float
    down_bytes: float
    low_bytes: float
    whole_bytes: float
    active: ScoreHistogram = field(default_factory=ScoreHistogram)
    fine: ScoreHistogram = field(default_factory=ScoreHistogram)
    sizes: Tensor | None = None  # of the experts, where they differ

    @classmethod
    def of(cls, expert: ExpertFFN) -> "PlaneScores":
        return cls(
            expert.fixed_bytes, expert.down_bytes, expert.low_bytes, expert.whole_bytes, sizes=expert.expert_sizes
        )

    @property
    def ratio(self) -> float:
        return math.sqrt(self.low_bytes / self.down_bytes)

    def add(self, value: Tensor, doubt: Tensor) -> None:
        self.active.add(value, self.sizes)
        self.fine.add(torch.minimum(value, doubt / self.ratio), self.sizes)

    def bytes_at(self, limit: float) -> float:
        """What a lone token reads."""
        read = self.active.share_above(limit) * self.down_bytes + self.fine.share_above(limit) * self.low_bytes
        return self.fixed_bytes + read

    def thresholds(self, limit: float) -> Tensor:
        """fp32 [2]"""
        return torch.tensor([limit, limit if limit < 0 else limit * self.ratio])


def limits_for(layers: Sequence[PlaneScores], share: float, allocation: Allocation) -> list[float]:
    """Of each layer, so that a lone token reads this share of the FFNs' bytes: one for all, or one for each."""
    if allocation == "global":
        return [_limit(layers, share)] * len(layers)
    return [_limit([layer], share) for layer in layers]


def _limit(layers: Sequence[PlaneScores], share: float) -> float:
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
