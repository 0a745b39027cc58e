"""Is a difference more than noise? Paired bootstrap over documents or task items, and spread over seeds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
_BLOCK = 1 << 21  # indices drawn at once: 16 MB
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """The 95 % interval low .. high."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model beside another on the same items. difference = ours - theirs; ratio = ours / theirs.

    sign is +1 or -1 where the interval of the difference leaves out 0, else 0: then no difference is shown.
    """

    difference: float
    difference_interval: Interval
    ratio: float
    ratio_interval: Interval
    num_items: int

    @property
    def sign(self) -> int:
        return 0 if self.difference_interval.holds(0.0) else int(math.copysign(1, self.difference_interval.low))


def compare_means(
    ours: ArrayLike,
    theirs: ArrayLike,
    weights: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap of sum(ours) / sum(weights) against sum(theirs) / sum(weights); an array entry is one item.

    Items are drawn with replacement, the same for both sides, within each stratum where strata are given (Efron and
    Tibshirani 1993, ch. 16; the interval is the 2.5 and 97.5 percentiles). The default weight of an item is 1.
    """
    mine, other = _resampled(ours, theirs, weights, strata, resamples, seed)
    return _comparison(mine - other, _quotient(mine, other), np.size(ours))


def compare_perplexities(
    ours: ArrayLike,
    theirs: ArrayLike,
    num_tokens: ArrayLike,
    strata: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """The same of nats per document: the difference is in nats per token, the ratio is that of the perplexities."""
    mine, other = _resampled(ours, theirs, num_tokens, strata, resamples, seed)
    return _comparison(mine - other, np.exp(np.clip(mine - other, -700, 700)), np.size(ours))


def compare_sums(
    ours: Floats, theirs: Floats, figure: Callable[[Floats], float], resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """The same of a figure that is no mean: figure(sum of ours) against figure(sum of theirs); a row is one item."""
    values = np.concatenate([ours, theirs], axis=1)
    _check_items(len(values))
    drawn = _drawn_sums(values, resamples, np.random.default_rng(seed))
    sums = np.concatenate([values.sum(axis=0, keepdims=True), drawn])
    mine, other = (np.array([figure(row) for row in half]) for half in np.hsplit(sums, 2))
    return _comparison(mine - other, _quotient(mine, other), len(values))


def _comparison(difference: Floats, ratio: Floats, num_items: int) -> Comparison:
    """Entry 0 is the figure itself, the rest are resamples."""
    return Comparison(float(difference[0]), _interval(difference[1:]), float(ratio[0]), _interval(ratio[1:]), num_items)


def _interval(values: Floats) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975), method="inverted_cdf")  # no arithmetic between infinities
    return Interval(float(low), float(high))


def _quotient(mine: Floats, other: Floats) -> Floats:
    """0 / 0 is 1: neither has anything."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((mine == 0) & (other == 0), 1.0, mine / other)


def _resampled(
    ours: ArrayLike, theirs: ArrayLike, weights: ArrayLike | None, strata: ArrayLike | None, resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Weighted means [1 + resamples] of both sides: of the items as they are, then of each resample."""
    values = np.stack([np.asarray(each, np.float64) for each in (ours, theirs, _ones(weights, ours))], axis=1)
    _check_items(len(values))
    labels = np.zeros(len(values)) if strata is None else np.asarray(strata)
    generator = np.random.default_rng(seed)
    sums = np.zeros((resamples, 3))
    for label in np.unique(labels):
        sums += _drawn_sums(values[labels == label], resamples, generator)
    sums = np.concatenate([values.sum(axis=0, keepdims=True), sums])
    sums = sums[sums[:, 2] > 0]  # a resample of documents without a token says nothing
    return sums[:, 0] / sums[:, 2], sums[:, 1] / sums[:, 2]


def _check_items(count: int) -> None:
    if count < 2:
        raise ValueError(f"a bootstrap needs at least 2 items, there are {count}")


def _ones(weights: ArrayLike | None, like: ArrayLike) -> ArrayLike:
    return np.ones(np.shape(like)) if weights is None else weights


def _drawn_sums(values: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """[resamples, columns]: each the sum over as many items as there are, drawn with replacement."""
    count, columns = values.shape
    rows = max(1, _BLOCK // count)
    blocks = []
    for begin in range(0, resamples, rows):
        drawn = generator.integers(0, count, (min(rows, resamples - begin), count))
        blocks.append(np.stack([values[:, column][drawn].sum(axis=1) for column in range(columns)], axis=1))
    return np.concatenate(blocks)


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """A figure under several seeds: its mean, and its standard deviation with n - 1.

    It says what calibration on other data of the same kind would have changed. Raises ValueError for fewer than 2.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"a spread needs at least 2 seeds, there are {len(self.values)}")

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        return float(np.std(self.values, ddof=1))
