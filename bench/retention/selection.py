"""From scores to the experts that are computed: one rule, fitted to a mean share on calibration scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...compress.moefy.thresholds import ScoreHistogram
from .masks import above, num_kept, top_tiles


class Selection(Protocol):
    """A fitted rule. Each rule below has `fit(scores, share)`: the mean share of experts that these scores keep.

    scores: fp32 [tokens, experts], at least 0. share: 0 to 1, else ValueError.
    """

    def mask(self, scores: Tensor) -> Tensor:
        """The experts to compute, bool [tokens, experts]."""
        ...


@dataclass(frozen=True, slots=True)
class FixedTopK:
    """The same number of experts for every token, round(share * experts)."""

    share: float

    @classmethod
    def fit(cls, scores: Tensor, share: float) -> "FixedTopK":
        num_kept(share, scores.shape[-1])
        return cls(share)

    def mask(self, scores: Tensor) -> Tensor:
        return top_tiles(scores, self.share)


@dataclass(frozen=True, slots=True)
class AbsoluteThreshold:
    """Every expert whose score is above a constant of the layer; tokens may use more or fewer."""

    threshold: float

    @classmethod
    def fit(cls, scores: Tensor, share: float) -> "AbsoluteThreshold":
        """Scores of 0 are left out unless the share is 1. Buffer: 64 MB of the histogram's."""
        if share == 1:
            return cls(-1.0)
        return cls(_histogram(scores).nearest_threshold(share, lambda at: float(above(scores, at).float().mean())))

    def mask(self, scores: Tensor) -> Tensor:
        return above(scores, self.threshold)


@dataclass(frozen=True, slots=True)
class RelativeThreshold:
    """score > part * the token's highest (D2DMoE, Szatkowski et al. 2024, section 3.3, with part = 1 - tau)."""

    part: float

    @classmethod
    def fit(cls, scores: Tensor, share: float) -> "RelativeThreshold":
        """Fits as AbsoluteThreshold does, on scores divided by their token's highest, which are held too."""
        return cls(-1.0 if share == 1 else _histogram(_of_highest(scores)).threshold_for_share(share))

    def mask(self, scores: Tensor) -> Tensor:
        return above(_of_highest(scores), self.part)


@dataclass(frozen=True, slots=True)
class CapturedMass:
    """The fewest experts of a token whose scores sum to the part `mass` of all its scores.

    A token whose scores are all 0 needs none. mass is inf where every expert is kept.
    """

    mass: float

    @classmethod
    def fit(cls, scores: Tensor, share: float) -> "CapturedMass":
        """Fits exactly but for ties. Holds scores three times over."""
        before = _mass_before(scores).flatten()
        kept = num_kept(share, before.numel())
        return cls(float("inf") if kept == before.numel() else float(before.kthvalue(kept + 1).values))

    def mask(self, scores: Tensor) -> Tensor:
        return _mass_before(scores) < self.mass


@dataclass(frozen=True, slots=True)
class AlwaysOn:
    """Some experts for every token, and what another rule chooses among the rest. shared: bool [experts]."""

    routed: Selection
    shared: Tensor

    @classmethod
    def fit(
        cls, rule: Callable[[Tensor, float], Selection], shared: Tensor, scores: Tensor, share: float
    ) -> "AlwaysOn":
        """rule: another rule's fit; it is given the share of the rest that makes up `share` together with `shared`.

        Raises ValueError where the shared experts alone are more than the share.
        """
        experts, always = len(shared), int(shared.sum())
        if not always / experts <= share <= 1:
            raise ValueError(
                f"share is {share}; it must lie between that of the {always} shared experts of {experts} and 1"
            )
        if always == experts:
            return cls(FixedTopK(0.0), shared)
        rest = (share * experts - always) / (experts - always)
        return cls(rule(scores[:, ~shared], min(1.0, max(0.0, rest))), shared)

    def mask(self, scores: Tensor) -> Tensor:
        chosen = self.shared.expand(scores.shape).clone()
        chosen[:, ~self.shared] = self.routed.mask(scores[:, ~self.shared])
        return chosen


def _histogram(scores: Tensor) -> ScoreHistogram:
    found = ScoreHistogram()
    found.add(scores)
    return found


def _of_highest(scores: Tensor) -> Tensor:
    highest = scores.amax(dim=-1, keepdim=True)
    return scores / torch.where(highest > 0, highest, 1)


def _mass_before(scores: Tensor) -> Tensor:
    """The part of a token's scores that lies in experts ranked before each one, 0 to 1; 1 for all where there is none.

    Equal scores are ranked by index. fp32 [tokens, experts].
    """
    ranked = torch.sort(scores.float(), dim=-1, descending=True, stable=True)
    sums = ranked.values.cumsum(dim=-1, dtype=torch.float64)
    total = sums[..., -1:]
    before = torch.where(total > 0, (sums - ranked.values) / torch.where(total > 0, total, 1), 1.0)
    return torch.empty_like(ranked.values).scatter_(-1, ranked.indices, before.float().clamp_(0, 1))
