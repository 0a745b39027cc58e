"""How far thresholds rise so that the tokens of a step, which choose together, read no more than a share. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..kernels.planes.together import TOGETHER
from .record import TierRecord


def threshold_factor(tier: TierRecord, rows: int, share: float) -> float:
    """The factor at which a step of so many rows at this tier read `share` of the FFN's bytes in calibration.

    It is 1 where the step reads no more without, and for a lone row; the highest that was tried where none is enough.

    Between numbers of rows that calibration had in a step, the next larger one counts; above them, the largest.
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
    """What rows that choose together may read: `share` of the FFN's bytes. tiers: all but the full one."""

    tiers: Sequence[TierRecord]
    share: float

    def factors(self, operating_points: Sequence[float]) -> list[float]:
        """The factors on the thresholds of rows at these operating points, each by the tier at or below it.

        Rows choose together `TOGETHER` at a time, in their order. Empty where no two rows can.
        """
        sparse = [row for row, point in enumerate(operating_points) if point > 0]
        found = [1.0] * len(operating_points)
        for begin in range(0, len(sparse), TOGETHER):
            group = sparse[begin : begin + TOGETHER]
            for row in group:
                tier = self.tiers[math.ceil(operating_points[row]) - 1]
                found[row] = threshold_factor(tier, len(group), self.share)
        return found if len(sparse) > 1 else []
