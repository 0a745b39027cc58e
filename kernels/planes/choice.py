"""Which neurons of a bit-plane FFN are read, and how far.

Every byte has one price. In units of the loss a neuron that is left out costs value^2 + doubt^2, one that is taken
coarse doubt^2 and its row of down, and one that is refined its low planes; then its value is known well, and its row
of down is read only where that is worth it. With the thresholds a for rows of down and d for low planes:

    refined   doubt > d  and  value^2 + doubt^2 > a |a| + d |d|
    computed  refined value > a where refined, else value > a

Thresholds below 0 take everything.

Tokens of a step may choose together, `TOGETHER` of them at a time: what is read once then removes loss from each of
them. Scores are divided by the token's thresholds and their squares summed; who passes 1 is read for all of them. A
token that is no number has no say.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .together import TOGETHER

_LEAST = 1e-18  # a threshold; its square is still a number


class NeuronScores(NamedTuple):
    """fp32 [tokens, tiles] each: |h| as foreseen, its deviation, and |h| as refined, times the importance of neurons.

    Of a tile the Euclidean norm over its neurons.
    """

    value: Tensor
    doubt: Tensor
    known: Tensor

    def chosen(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """(computed, refined), bool [tokens, tiles], at the thresholds a and d of each token: fp32 [tokens, 2]."""
        a, d = thresholds[:, :1], thresholds[:, 1:]
        worth = self.value * self.value + self.doubt * self.doubt
        refined = (self.doubt > d) & (worth > a * a.abs() + d * d.abs())
        return torch.where(refined, self.known > a, self.value > a), refined

    def chosen_together(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """The same where the tokens choose together: equal rows for the tokens of a group."""
        groups = [torch.split(each, TOGETHER) for each in (*self, thresholds)]
        found = [_together(NeuronScores(*scores), some) for *scores, some in zip(*groups, strict=True)]
        computed, refined = (torch.cat(each) for each in zip(*found, strict=True))
        return computed, refined

    def refined_below(self, ratio: float) -> Tensor:
        """The threshold a below which each is refined, where d = ratio a; at least 0."""
        worth = (self.value * self.value + self.doubt * self.doubt) / (1 + ratio * ratio)
        return torch.minimum(self.doubt / ratio, worth.sqrt())

    def touched_below(self, ratio: float) -> Tensor:
        """The threshold a below which anything that is its own is read of each, where d = ratio a; at least 0."""
        return torch.maximum(self.value, self.refined_below(ratio))


def _together(scores: NeuronScores, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    least = thresholds.clamp(min=_LEAST)
    of_value, of_doubt = torch.split(1 / least.square(), 1, dim=1)
    of_both = 1 / least.square().sum(1, keepdim=True)
    finite = scores.value.isfinite().all(1, keepdim=True)
    value, doubt, refined_value = (torch.where(finite, each, 0.0).square() for each in scores)
    refined = ((doubt * of_doubt).sum(0) > 1) & (((value + doubt) * of_both).sum(0) > 1)
    computed = torch.where(refined, (refined_value * of_value).sum(0) > 1, (value * of_value).sum(0) > 1)
    count = len(thresholds)
    return computed.expand(count, -1), refined.expand(count, -1)
