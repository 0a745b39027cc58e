"""Tiers of trained routers: a share of the experts in every layer, or the same share of each layer's energy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.ffn.dense import FFN
from ...models.ffn.routed import RoutedFFN
from ...models.record import TierRecord
from ..stage import Fit
from ..walk import walk
from .thresholds import ScoreHistogram
from .tiers import Decided, TierSetter, TierWalk
from .train import train_routers_

_BISECTIONS = 30


class RouterTiers(TierSetter[RoutedFFN]):
    """Sets the tiers of one loaded model."""

    kind = RoutedFFN

    @staticmethod
    def passes(tiers: int) -> float:
        """Counts routers, scores, and for each tier a walk over the text that computes every FFN twice."""
        return 2 + 2 * tiers

    @staticmethod
    def fits(hidden: int) -> tuple[Fit, ...]:
        """A line through so many inputs owes the part inputs / tokens of its error to chance."""
        return (Fit("routers", 16 * hidden, f"16 for each of {hidden:,} inputs, 6 % of the error by chance"),)

    def prepare(self) -> dict[str, Any]:
        """Trains the routers on what the dense model's FFNs are given and give."""
        share = min(self.settings.tiers.values())
        notes = train_routers_(self.model, self.ffns, self.workshop, share, self.teller("training routers"))
        self._dense = [ScoreHistogram() for _ in self.ffns]

        def watch(index: int, _: FFN, given: Sequence[Tensor]) -> None:
            ffn = self.ffns[index]
            for x in given:
                self._dense[index].add(ffn.scores(x), ffn.tile_sizes)

        walk(self.model, self.workshop.windows, watch, progress=self.teller("scores"))
        return notes

    def set_tier(self, operating_point: int, tier: TierRecord) -> TierRecord:
        """Each layer's threshold from the scores that it has at this tier."""
        shares = self._shares(tier.share)

        def decide(layer: int, given: Sequence[Tensor]) -> Decided:
            ffn = self.ffns[layer]
            seen = _Seen([ffn.scores(x) for x in given], ffn.tile_sizes)
            threshold = seen.threshold(shares[layer])
            if operating_point == 1:
                ffn.thresholds[0] = min(threshold, seen.below_all)
            ffn.thresholds[operating_point] = threshold
            active = [each > threshold for each in seen.scores]
            computed = float(torch.cat([each.flatten(0, -2) for each in active]).float().mean())
            return Decided(active, computed, lambda at: ffn.fixed_bytes + seen.kept(at) * ffn.whole_bytes)

        turn = TierWalk(self, operating_point, self.workshop.windows)
        return turn.run(tier, decide, self.teller(f"tier {tier.name}"))

    def _shares(self, share: float) -> list[float]:
        """The part of its experts that each layer computes, so that together they read this share of bytes."""
        whole = sum(ffn.whole_bytes for ffn in self.ffns)
        budget = share * whole
        if self.settings.by_energy(self.ffns[0].gate is not None):
            return self._by_energy(budget)
        kept = (budget - sum(ffn.fixed_bytes for ffn in self.ffns)) / whole
        return [min(1.0, kept)] * len(self.ffns)

    def _by_energy(self, budget: float) -> list[float]:
        """The parts of all layers at one discarded share of energy, the least that the budget pays for."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            kept = zip(self.ffns, self._kept(middle), strict=True)
            spent = sum(ffn.fixed_bytes + share * ffn.whole_bytes for ffn, share in kept)
            low, high = (middle, high) if spent > budget else (low, middle)
        return self._kept(high)

    def _kept(self, discarded: float) -> list[float]:
        return [each.share_above(each.threshold_for_energy(discarded)) for each in self._dense]


@dataclass(frozen=True, slots=True)
class _Seen:
    """The scores of a layer, [.., experts] each, in experts of these sizes."""

    scores: Sequence[Tensor]
    sizes: Tensor | None

    @property
    def below_all(self) -> float:
        """A threshold just below every score."""
        lowest = torch.stack([each.min() for each in self.scores]).min().float()
        return float(torch.nextafter(lowest, lowest - 1))

    def kept(self, threshold: float) -> float:
        """The share of the neurons that a threshold keeps."""
        above = torch.stack([(each > threshold).flatten(0, -2).sum(0) for each in self.scores]).sum(0).double()
        tokens = sum(each.shape[:-1].numel() for each in self.scores)
        return float(above.mean() if self.sizes is None else (above * self.sizes).sum() / self.sizes.sum()) / tokens

    def threshold(self, share: float) -> float:
        """The one that keeps about this share."""
        if share >= 1:
            return -1.0
        seen = ScoreHistogram(squares=False)
        for each in self.scores:
            seen.add(each, self.sizes)
        return seen.nearest_threshold(share, self.kept)
