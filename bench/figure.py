"""A figure with the interval that it may as well have been, and what it means: for every report, and to compare two."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluate.statistics import Interval

_RESAMPLES = 400
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A value and its 95 % interval low .. high. better: "less" or "more".

    items: what each document or question brought, and out of how much, where two reports may be of the same ones.
    """

    value: float
    low: float
    high: float
    unit: str
    better: str
    items: tuple[tuple[float, float], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, of five digits; items as they are."""
        found = {
            name: float(f"{value:.5g}") if isinstance(value, float) else value for name, value in asdict(self).items()
        }
        return found if self.items else {name: value for name, value in found.items() if name != "items"}

    @classmethod
    def of_json(cls, found: Any) -> "Figure | None":
        """What `as_json` made; None of anything else."""
        if not isinstance(found, Mapping) or not _NEEDED <= set(found) <= _KNOWN:
            return None
        return cls(**{**found, "items": tuple((float(a), float(b)) for a, b in found.get("items", ()))})


_KNOWN = {each.name for each in fields(Figure)}
_NEEDED = _KNOWN - {"items"}


class Pooled:
    """Values of several requests, of which requests are drawn anew: what belongs to one stays together.

    A percentile is the smallest value that so many do not exceed; its interval holds the 95 % in the middle of those of
    `_RESAMPLES` draws of requests with replacement (Efron and Tibshirani 1993, ch. 13).
    """

    def __init__(self, values: Sequence[Sequence[float]], seed: int = 0) -> None:
        owners = np.repeat(np.arange(len(values)), [len(mine) for mine in values])
        flat = np.concatenate([np.asarray(mine, np.float64) for mine in values]) if len(values) else np.empty(0)
        order = np.argsort(flat, kind="stable")
        self._sorted: Floats = flat[order]
        self._owners, self._count = owners[order], len(values)
        self._draws = np.random.default_rng(seed)

    @property
    def empty(self) -> bool:
        """There is no value at all."""
        return not len(self._sorted)

    def quantiles(self, shares: Sequence[float]) -> Floats:
        """Of the values as they are."""
        return self._quantiles(np.ones(self._count), shares)

    def percentiles(self, shares: Sequence[float], unit: str = "ms", scale: float = 1e3) -> dict[str, Figure]:
        """{p50: ...} of values of which less is better."""
        found = scale * self.quantiles(shares)
        drawn = scale * np.array([self._quantiles(self._drawn(), shares) for _ in range(_RESAMPLES)])
        between = [_middle(drawn[:, i]) for i in range(len(shares))]
        return {
            f"p{100 * share:g}": Figure(float(value), interval.low, interval.high, unit, "less")
            for share, value, interval in zip(shares, found, between, strict=True)
        }

    def _drawn(self) -> Floats:
        """How often each request is drawn; at least one with values is."""
        while True:
            times = np.bincount(self._draws.integers(self._count, size=self._count), minlength=self._count)
            if times[self._owners].any():
                return times.astype(np.float64)

    def _quantiles(self, times: Floats, shares: Sequence[float]) -> Floats:
        passed = np.cumsum(times[self._owners])
        places = np.searchsorted(passed, np.asarray(shares) * passed[-1], side="left")
        found: Floats = self._sorted[np.minimum(places, len(self._sorted) - 1)]
        return found


def rate(counts: Sequence[float], seconds: float, unit: str, better: str = "more", seed: int = 0) -> Figure:
    """What requests brought, by the second; the interval is of requests drawn anew."""
    values, draws = np.asarray(counts, np.float64), np.random.default_rng(seed)
    if not len(values):
        return Figure(0.0, 0.0, 0.0, unit, better)
    drawn = [values[draws.integers(len(values), size=len(values))].sum() for _ in range(_RESAMPLES)]
    interval = _middle(np.array(drawn) / seconds)
    return Figure(float(values.sum() / seconds), interval.low, interval.high, unit, better)


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
