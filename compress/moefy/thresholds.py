"""From the scores seen in calibration to a layer's threshold: for a share of the tiles, or of the energy."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models.finite import NotFinite

_BINS = 4096
_BITS = 17  # of the 23 bits of a float's fraction: 64 bins an octave, each 0.8 to 1.6 % wide
_LOWEST = (127 - 40) << (23 - _BITS)  # the first bin ends at 2^-40 (1 + 1/64), the last begins near 2^24
_LAST = (1 << (31 - _BITS)) + 1  # of a float's high bits, those of no number among them
_ENTRIES = 1 << 20
_CLOSE = 1e-3  # to a share, relative to it


def _zeros() -> Tensor:
    return torch.zeros(1 + _BINS, dtype=torch.float64)


@dataclass(slots=True)
class ScoreHistogram:
    """How many scores >= 0 lie where, and the sum of their squares. A tile is kept where score > threshold.

    Bin 0 holds the zeros, which ReLU makes many of; bin b the scores in (edge[b - 1], edge[b]], where the edges are
    the fp32 numbers whose last 17 bits are 0: an integer of the score's bits says the bin, on any device. Sums are
    fp64, so scores may come in any cuts.
    """

    counts: Tensor = field(default_factory=_zeros)  # [1 + bins]
    energy: Tensor = field(default_factory=_zeros)  # [1 + bins]
    highest: float = 0.0
    squares: bool = True  # are summed

    def add(self, scores: Tensor, sizes: Tensor | None = None) -> None:
        """Takes in scores of any shape. Negative ones, NaN and inf raise NotFinite.

        sizes: fp64 [tiles], how many neurons a score [.., tiles] counts for; 1 where none are given.
        """
        flat = scores.detach().flatten()
        self.counts, self.energy = self.counts.to(flat.device), self.energy.to(flat.device)
        weights = None if sizes is None else sizes.expand(scores.shape).flatten()
        for begin in range(0, len(flat), _ENTRIES):
            part = slice(begin, begin + _ENTRIES)
            exact = flat[part].float()
            low, high = (float(each) for each in exact.aminmax())
            if not 0 <= low <= high < float("inf"):
                seen = f"{low:.3g} to {high:.3g}"
                raise NotFinite(f"scores of experts must be at least 0 and finite; they go from {seen}")
            high_bits = _high_bits(exact)
            self.counts += _by_bin(high_bits, None if weights is None else weights[part])
            if self.squares:
                self.energy += _by_bin(high_bits, exact.double().square())
            self.highest = max(self.highest, high)

    def threshold_for_share(self, share: float) -> float:
        """The threshold that keeps this share (0 to 1) of all scores seen, straight lines drawn within a bin.

        0 where the share is that of the scores above 0, or more: what is exactly 0 adds nothing. Scores that are
        equal stay or go together, so a share that cuts through many equal ones is missed by as many.
        """
        _check_part(share, "share")
        wanted = share * float(self.counts.sum())
        above = self._above(self.counts)  # [1 + bins]: how many lie in later bins, that is, above edge[b]
        if wanted >= float(above[0]) * (1 - 1e-12):  # the share may have been divided out of these very counts
            return 0.0
        b = int((above <= wanted).nonzero()[0])  # the first edge that keeps no more than wanted
        low, high = self._bounds(b)
        return high - (high - low) * float((wanted - above[b]) / self.counts[b])

    def nearest_threshold(self, share: float, kept: Callable[[float], float]) -> float:
        """The threshold of `threshold_for_share`, or the one of its bin that keeps what is nearest to `share`.

        Many scores may be equal or close together. kept: the share that a threshold keeps, by count.
        """
        threshold = self.threshold_for_share(share)
        low, high = self._bounds(int(_bins(_high_bits(torch.tensor([threshold], dtype=torch.float32)))))
        found = {each: kept(each) for each in (high, threshold)}
        while abs(found[threshold] - share) > _CLOSE * share and low < threshold < high:
            low, high = (threshold, high) if found[threshold] > share else (low, threshold)
            threshold = float(torch.tensor((low + high) / 2, dtype=torch.float32))
            found[threshold] = kept(threshold)
        return min(found, key=lambda each: abs(found[each] - share))

    def share_above(self, threshold: float) -> float:
        """The share of the scores seen that a threshold keeps, straight lines drawn within a bin; all below 0."""
        if threshold < 0:
            return 1.0
        if threshold >= self.highest:
            return 0.0
        b = int(_bins(_high_bits(torch.tensor([threshold], dtype=torch.float32))))
        low, high = self._bounds(b)
        part = (high - threshold) / (high - low) if b else 0.0
        kept = self._above(self.counts)[b] + self.counts[b] * min(max(part, 0.0), 1.0)
        return float(kept / self.counts.sum())

    def threshold_for_energy(self, discarded: float) -> float:
        """The highest edge at which the scores that go hold at most this part (0 to 1) of the sum of all squares."""
        _check_part(discarded, "discarded")
        if not self.squares:
            raise ValueError("the sums of squares were not kept; a histogram keeps them unless squares=False")
        below = self.energy.cumsum(0)
        b = int((below <= discarded * below[-1]).nonzero()[-1])
        return min(float(_edges()[b]), self.highest)

    def _above(self, sums: Tensor) -> Tensor:
        return sums.sum() - sums.cumsum(0)

    def _bounds(self, b: int) -> tuple[float, float]:
        """The scores between which those of bin b lie."""
        if b == 0:
            return 0.0, 0.0
        edges = _edges()
        low = float(edges[b - 1]) if b > 1 else 0.0
        return low, self.highest if b == _BINS else min(float(edges[b]), self.highest)


def _high_bits(scores: Tensor) -> Tensor:
    """fp32 numbers >= 0 are in the order of their bits; 0 for 0, and a score on an edge belongs to those below it."""
    bits = scores.contiguous().view(torch.int32) & 0x7FFFFFFF  # -0 is 0
    return bits.add_((1 << _BITS) - 1).bitwise_right_shift_(_BITS)


def _bins(high_bits: Tensor) -> Tensor:
    return torch.where(high_bits > 0, (high_bits - _LOWEST).clamp(1, _BINS), 0)


def _by_bin(high_bits: Tensor, weights: Tensor | None) -> Tensor:
    """How many there are in each bin, or the sum of their weights: [1 + bins]."""
    counts = torch.bincount(high_bits, weights, minlength=_LAST)
    found = counts.new_zeros(1 + _BINS)
    return found.index_add_(0, _bins(torch.arange(len(counts), device=counts.device)), counts)


def _edges() -> Tensor:
    """fp64 [1 + bins]: 0, then where each bin ends; the last has no end."""
    bits = (torch.arange(_LOWEST + 1, _LOWEST + _BINS + 1, dtype=torch.int32)) << _BITS
    ends = bits.view(torch.float32).double()
    ends[-1] = float("inf")
    return torch.cat([ends.new_zeros(1), ends])


def _check_part(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
