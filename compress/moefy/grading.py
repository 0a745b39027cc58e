"""One threshold a tier for every graded linear: found from what inputs were worth on the calibration text."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...kernels.graded.bytes import PLANES
from ...models.linear import Graded, GradedEmbedding, GradedLinear
from ...models.transformer import Layer, Transformer
from ..windows import Windows, batched
from .thresholds import ScoreHistogram

_BISECTIONS = 48
_LOWEST, _HIGHEST = -60.0, 40.0  # powers of 2


@dataclass(slots=True)
class GradedScores:
    """How the scores |x_k| worth[l] of one linear's inputs are spread, level by level."""

    linear: Graded
    levels: list[ScoreHistogram] = field(default_factory=lambda: [ScoreHistogram(squares=False) for _ in PLANES])

    def add(self, x: Tensor) -> None:
        """Takes in what tokens give it, [.., inputs]."""
        size = self.linear.graded(x).flatten(0, -2).float().abs()
        for histogram, worth in zip(self.levels, self.linear.worth, strict=True):
            histogram.add(size * worth)

    def shares_at(self, threshold: float) -> list[float]:
        """The share of inputs whose weights are read up to each level."""
        return [histogram.share_above(threshold) for histogram in self.levels]

    def bytes_at(self, threshold: float) -> float:
        """What a lone token reads in the mean."""
        bits = sum(share * plane for share, plane in zip(self.shares_at(threshold), PLANES, strict=True))
        return self.linear.prices.fixed + bits * self.linear.num_inputs * self.linear.prices.parts[0]


def threshold_for(scores: Sequence[GradedScores], share: float) -> float:
    """The threshold at which a lone token reads this share of the linears' bytes; of many, the lowest."""
    budget = share * sum(each.linear.whole_bytes for each in scores)
    return lowest_threshold(budget, lambda threshold: sum(each.bytes_at(threshold) for each in scores))


def lowest_threshold(budget: float, bytes_at: Callable[[float], float]) -> float:
    """The lowest threshold whose bytes, which fall as it rises, are within the budget."""
    low, high = _LOWEST, _HIGHEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if bytes_at(2.0**middle) <= budget else (middle, high)
    return math.exp2(high)


def graded_linears(layer: Layer) -> Iterator[GradedLinear]:
    """Those of one layer, a packed group as one."""
    for owner in (layer.attention, layer.ffn):
        packed = owner.packed[0] if owner.packed else None
        if isinstance(packed, GradedLinear):
            yield packed
        yield from (each for each in owner.children() if isinstance(each, GradedLinear) and not each.is_part)


@contextmanager
def watching(linears: Sequence[nn.Module], look: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Shows what each linear is given while the block runs; of a tied head nothing, whose module is also called for
    what tokens look up.
    """

    def before(linear: nn.Module, given: tuple[Tensor, ...]) -> None:
        if not isinstance(linear, GradedEmbedding):
            look(linear, given[0])

    hooks = [linear.register_forward_pre_hook(before) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Walk:
    """Passes of calibration windows through a loaded model whose linears are graded."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.by_layer = [list(graded_linears(layer)) for layer in model.layers if isinstance(layer, Layer)]
        self.linears: list[Graded] = [linear for layer in self.by_layer for linear in layer]
        self._head = model.embedding if model.untied_head is None else model.untied_head
        if isinstance(self._head, Graded):
            self.linears.append(self._head)

    @torch.inference_mode()
    def scores(self, windows: Windows, operating_point: float, done: Callable[[int, int], None]) -> list[GradedScores]:
        """What inputs are worth to tokens that stand at this point."""
        found: dict[nn.Module, GradedScores] = {linear: GradedScores(linear) for linear in self.linears}
        rows = list(batched(windows, 1))
        with watching(self.linears, lambda linear, x: found[linear].add(x)):
            for i, row in enumerate(each.to(self.model.device) for each in rows):
                compute = self.model.compute_of([operating_point])
                states = self.model.hidden(row.ids, context=row.context(self.model), compute=compute)
                if isinstance(self._head, Graded):
                    found[self._head].add(states)
                done(i + 1, len(rows))
        return [found[linear] for linear in self.linears]
