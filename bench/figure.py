"""A figure with the interval that it may as well have been, and what it means: for every report, and to compare two."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluate.statistics import Interval
from .noise import TWO_SIDED, counted_interval, reach_of_sum

_RESAMPLES = 400
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and its 95 % interval low .. high. better: "less" or "more".

    items: what each document or question brought, and out of how much, where two reports may be of the same ones.
    of_few: so few that the interval has no end on one side; what stands there is the furthest that was seen.
    """

    value: float
    low: float
    high: float
    unit: str
    better: str
    items: tuple[tuple[float, float], ...] = ()
    of_few: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values, of five digits; items as they are."""
        found = {
            name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in asdict(self).items()
        }
        return {name: value for name, value in found.items() if name in _NEEDED or value}

    @classmethod
    def of_json(cls, found: Any) -> "Figure | None":
        """What `as_json` made; None of anything else."""
        if not isinstance(found, Mapping) or not _NEEDED <= set(found) <= _KNOWN:
            return None
        return cls(**{**found, "items": tuple((float(a), float(b)) for a, b in found.get("items", ()))})


_KNOWN = {each.name for each in fields(Figure)}
_NEEDED = _KNOWN - {"items", "of_few"}


class Pooled:
    """Values of several requests, in the order of time.

    A percentile is the smallest value that so many do not exceed. Its interval is that of the share that do not exceed
    it, read off the values (Woodruff 1952); the share's is of requests, whose values belong together, and of blocks of
    time (`noise`), whichever is wider.
    """

    def __init__(self, values: Sequence[Sequence[float]]) -> None:
        self._sizes = np.array([len(mine) for mine in values], np.float64)
        flat = np.concatenate([np.asarray(mine, np.float64) for mine in values]) if len(values) else np.empty(0)
        order = np.argsort(flat, kind="stable")
        self._sorted: Floats = flat[order]
        self._owners = np.repeat(np.arange(len(values)), self._sizes.astype(np.int64))[order]
        self._places = (np.arange(len(values)) + 0.5) / max(1, len(values))

    @property
    def empty(self) -> bool:
        """There is no value at all."""
        return not len(self._sorted)

    def quantiles(self, shares: Sequence[float]) -> Floats:
        """The smallest values that so many do not exceed."""
        found: Floats = self._sorted[[self._rank(share) - 1 for share in shares]]
        return found

    def percentiles(self, shares: Sequence[float], unit: str = "ms", scale: float = 1e3) -> dict[str, Figure]:
        """{p50: ...} of values of which less is better."""
        return {f"p{100 * share:g}": self._percentile(share, unit, scale) for share in shares}

    def _percentile(self, share: float, unit: str, scale: float) -> Figure:
        reach = self._reach(share)
        value, low, high = (scale * float(each) for each in self.quantiles((share, share - reach, share + reach)))
        return Figure(value, low, high, unit, "less", of_few=share - reach <= 0 or share + reach >= 1)

    def _reach(self, share: float) -> float:
        """Half of the 95 % interval of the share of values that do not exceed the percentile."""
        count, requests, rank = len(self._sorted), len(self._sizes), self._rank(share)
        below = np.bincount(self._owners[:rank], minlength=requests)
        off = below - rank / count * self._sizes
        alone = TWO_SIDED * float(np.sqrt(requests / max(1, requests - 1) * np.square(off).sum()))
        least = TWO_SIDED * float(np.sqrt(share * (1 - share) * count))
        return max(alone, least, reach_of_sum(off, self._places)) / count

    def _rank(self, share: float) -> int:
        count = len(self._sorted)
        return min(count, max(1, int(np.ceil(share * count - 1e-9))))


def rate(brought: Sequence[float], places: Sequence[float], whole: float, unit: str, better: str = "more") -> Figure:
    """What requests brought in all by `whole`, seconds or requests; its interval holds the noise of their number.

    places: of each in the course of the run, from 0 to 1.
    """
    values = np.asarray(brought, np.float64)
    interval = counted_interval(values, np.asarray(places, np.float64))
    return Figure(float(values.sum() / whole), interval.low / whole, interval.high / whole, unit, better)


def mean_of(items: Sequence[tuple[float, float]], unit: str, better: str, seed: int = 0) -> Figure:
    """What items brought, of all that they could, as sum over sum; the interval is of items drawn anew."""
    sums, draws = np.asarray(items, np.float64), np.random.default_rng(seed)
    drawn = np.array([sums[draws.integers(len(sums), size=len(sums))].sum(axis=0) for _ in range(_RESAMPLES)])
    brought, whole = sums.sum(axis=0)
    interval = _middle(drawn[:, 0] / drawn[:, 1])
    return Figure(float(brought / whole), interval.low, interval.high, unit, better, tuple((a, b) for a, b in items))


def ratio_of_rounds(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Figure:
    """How many times as long ours took, the median over rounds in which both had a turn: what disturbs the machine
    disturbs both. The interval is of rounds drawn anew.
    """
    count = min(len(ours), len(theirs))
    ratios = np.asarray(ours[:count], np.float64) / np.asarray(theirs[:count], np.float64)
    draws = np.random.default_rng(seed)
    drawn = np.median(ratios[draws.integers(count, size=(_RESAMPLES, count))], axis=1)
    interval = _middle(drawn)
    return Figure(float(np.median(ratios)), interval.low, interval.high, "x", "less")


def _middle(values: Floats) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975), method="inverted_cdf")
    return Interval(float(low), float(high))
