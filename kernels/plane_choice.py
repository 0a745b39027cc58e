"""Which neurons of a bit-plane FFN are read, and how far.

Every byte has one price. In units of the loss a neuron that is left out costs value^2 + doubt^2, one that is taken
coarse doubt^2 and its row of down, and one that is refined its low planes; then its exact value is known, and its row
of down is read only where that is worth it. With the limits a for rows of down and d for low planes:

    refined   doubt > d  and  value^2 + doubt^2 > a |a| + d |d|
    computed  exact > a where refined, else value > a

Limits below 0 take everything.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class NeuronScores(NamedTuple):
    """fp32 [tokens, tiles] each: |h| as foreseen, its deviation, and |h| itself, times the importance of the neurons.

    Of a tile the Euclidean norm over its neurons.
    """

    value: Tensor
    doubt: Tensor
    exact: Tensor

    def chosen(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """(computed, refined), bool [tokens, tiles], at the limits a and d of each token: fp32 [tokens, 2]."""
        a, d = thresholds[:, :1], thresholds[:, 1:]
        worth = self.value * self.value + self.doubt * self.doubt
        refined = (self.doubt > d) & (worth > a * a.abs() + d * d.abs())
        return torch.where(refined, self.exact > a, self.value > a), refined

    def refined_below(self, ratio: float) -> Tensor:
        """The limit a below which each is refined, where d = ratio a; at least 0."""
        worth = (self.value * self.value + self.doubt * self.doubt) / (1 + ratio * ratio)
        return torch.minimum(self.doubt / ratio, worth.sqrt())

    def touched_below(self, ratio: float) -> Tensor:
        """The limit a below which anything that is its own is read of each, where d = ratio a; at least 0."""
        return torch.maximum(self.value, self.refined_below(ratio))
