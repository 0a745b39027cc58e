"""From a share of bytes to an operating point between two tiers. No torch: a front end may import it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import InvalidRequest, Unsupported, Violation
from .record import TierRecord
from .spec import FULL
from .suggestion import likely

BOTH = "comes with a tier; name a tier or a share, not both"
_JUST_BEYOND = 1e-6  # the full tier


@dataclass(frozen=True, slots=True)
class Dial:
    """What a request may read of the weights that tiers govern. An operating point is a number: 0 is the full tier, 1
    the next, 1.25 a quarter of the way from that to the one after it: of thresholds and constants, the line between two
    tiers.

    names: of the tiers, which are the operating points 0, 1, ... points: (operating point, share of bytes that
    calibration saw there), rising; on straight lines between them a share finds its own. The first is just beyond the
    full tier: routing may come on top of all the weights, or every neuron refined be less than they are, and no
    operating point reads what lies between.
    """

    names: tuple[str, ...] = (FULL,)
    points: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    @classmethod
    def of(cls, tiers: Sequence[TierRecord]) -> "Dial":
        """The dial of a model with these tiers beside the full one."""
        points = [(0.0, dict(tiers[0].between).get(0.0, 1.0) if tiers else 1.0)]
        for index, tier in enumerate(tiers, 1):
            for part, share in tier.between:
                if part > 0:  # no less than the tier, no more than before it: calibration saw other tokens there
                    points.append((index - 1 + part, min(max(share, tier.bytes_share), points[-1][1])))
            points.append((float(index), tier.bytes_share))
        return cls((FULL, *(tier.name for tier in tiers)), tuple(points))

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of bytes of each tier that calibration saw: 1 of the full one."""
        return (1.0, *(share for point, share in self.points[1:] if point.is_integer()))

    def operating_point(self, tier: str | None, share: float | None, prefix: str = "") -> float:
        """The operating point of a tier by its name, or of a share of bytes; of the full tier without either.

        Raises InvalidRequest for what is no share, whose field begins with `prefix`; Unsupported for what this model
        does not have.
        """
        if share is None:
            return float(self._index(tier or FULL))
        if tier:
            raise InvalidRequest([Violation(f"{prefix}share", BOTH)])
        if not 0 < share <= 1:  # a NaN too
            message = f"is {float(share)}; a share of the bytes lies above 0 and goes up to 1, the full tier"
            raise InvalidRequest([Violation(f"{prefix}share", message)])
        return self._between(share, prefix)

    def name(self, operating_point: float) -> str:
        """The tier at an operating point; "" between two."""
        return self.names[int(operating_point)] if operating_point.is_integer() else ""

    def _index(self, tier: str) -> int:
        if tier not in self.names:
            known = ", ".join(self.names)
            raise Unsupported(
                f"tier {ascii(tier[:64])} is not among this model's tiers: {known}{likely(tier[:64], self.names)}"
            )
        return self.names.index(tier)

    def _between(self, share: float, prefix: str) -> float:
        if share == 1:
            return 0.0
        if len(self.names) == 1:
            raise Unsupported(
                "this model has no tiers, so no share of its bytes can be left out; a stage moefy makes some"
            )
        shares = [each for _, each in self.points]
        if not all(before >= after for before, after in pairwise(shares)):
            known = ", ".join(self.names)
            raise Unsupported(f"of this model's tiers one reads more than the one before it; name one: {known}")
        if share < shares[-1]:
            message = (
                f"is {share}; this model's lowest tier, {self.names[-1]}, reads {shares[-1]:.3f} of the bytes that "
                "tiers govern"
            )
            raise InvalidRequest([Violation(f"{prefix}share", message)])
        if share >= shares[0]:
            return _JUST_BEYOND
        after = bisect_left(shares, -share, key=lambda each: -each)  # so that the share before it is a larger one
        (before, more), (behind, less) = self.points[after - 1], self.points[after]
        return behind - (behind - before) * (share - less) / (more - less)
