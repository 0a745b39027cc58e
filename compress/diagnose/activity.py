"""How active the neurons of a layer are on text: the share that gives nothing, and those that never give anything."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.ffn.dense import FFN
from ...models.linear import dense_weight
from ..moefy.thresholds import ScoreHistogram

EXACT = ("relu",)  # activations that give exact zeros
NEGLIGIBLE = 0.01  # of the layer's root mean square, for the others


@dataclass(frozen=True, slots=True)
class LayerActivity:
    """inactive: the share of (token, neuron) pairs that give nothing; dead: neurons inactive on every token.

    Inactive is h = 0 after ReLU (`exact`); else |h| ||d|| <= NEGLIGIBLE `rms`, where d is the neuron's column of down
    and rms the root mean square of |h| ||d|| over all pairs of the layer.
    """

    neurons: int
    activation: str
    exact: bool
    inactive: float
    dead: tuple[int, ...]
    rms: float


class ActivityCount:
    """Running figures of one layer's neurons; memory does not grow with the text."""

    def __init__(self, ffn: FFN) -> None:
        self._activation = ffn.activation_name
        self._norms = dense_weight(ffn.down).norm(dim=0)  # [width]
        self._outputs = ScoreHistogram()
        self._highest = torch.zeros_like(self._norms)  # of |h|
        self._zeros = self._pairs = 0

    def add(self, h: Tensor) -> None:
        """Takes in what neurons give, [.., width]."""
        size = h.abs().flatten(0, -2)
        self._outputs.add(size * self._norms)
        self._highest = torch.maximum(self._highest, size.amax(0))
        self._zeros += int((size == 0).sum())
        self._pairs += size.numel()

    def result(self) -> LayerActivity:
        exact = self._activation in EXACT
        rms = float((self._outputs.energy.sum() / self._outputs.counts.sum()).sqrt())
        if exact:
            inactive, dead = self._zeros / self._pairs, self._highest == 0
        else:
            inactive = 1 - self._outputs.share_above(NEGLIGIBLE * rms)  # to the width of a bin, 1.6 % of the threshold
            dead = self._highest * self._norms <= NEGLIGIBLE * rms
        which = tuple(dead.nonzero().flatten().tolist())
        return LayerActivity(len(self._norms), self._activation, exact, inactive, which, rms)
