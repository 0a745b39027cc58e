"""How far thresholds rise so that the tokens of a step, which choose together, read no more than a share. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .record import TierRecord


def threshold_factor(tier: TierRecord, rows: int, share: float) -> float:
    """At which a step of so many rows at this tier read `share` of the FFN's bytes in calibration; 1 where it reads no
    more without, and for a lone row. Where no factor that was tried is enough, the highest.

    More rows than calibration had in a step count as its most: tokens choose together so many at a time.
    """
    sizes = sorted(tier.together)
    if rows < 2 or not sizes:
        return 1.0
    points = tier.together[next((size for size in sizes if size >= rows), sizes[-1])]
    for (low, more), (high, less) in pairwise(points):
        if share >= more:
            return low
        if share >= less:
            part = (more - share) / (more - less)
            return math.exp(math.log(low) + part * (math.log(high) - math.log(low)))
    return points[-1][0]


@dataclass(frozen=True, slots=True)
class StepShare:
    """What the rows of a step may read together: `share` of the FFN's bytes. tiers: all but the full one."""

    tiers: Sequence[TierRecord]
    share: float

    def factors(self, places: Sequence[float]) -> list[float]:
        """On the thresholds of rows at these places of the dial (0 is full): those of the tier at or below each."""
        rows = sum(place > 0 for place in places)
        return [self._factor(math.ceil(place), rows) for place in places]

    def _factor(self, index: int, rows: int) -> float:
        return threshold_factor(self.tiers[index - 1], rows, self.share) if index else 1.0
