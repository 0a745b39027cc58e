"""What the tokens of a step read where they choose together, foretold from scores that calibration saw."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.planes.choice import NeuronScores
from ...kernels.planes.together import TOGETHER
from ...models.ffn.planes import PlaneFFN
from .budget import PlaneScores

STEPS = (2, 4, TOGETHER)  # tokens
FACTORS = tuple(1.5**i for i in range(20))  # on thresholds: those of a tier that takes nearly all are low
_EVERY = 4  # of the tokens of a passage, one is looked at


class StepScores:
    """One layer's scores, of tokens at the same place of different passages together."""

    def __init__(self, ffn: PlaneFFN) -> None:
        self._sizes = {size: PlaneScores.of(ffn) for size in STEPS}
        self._waiting: NeuronScores | None = None

    def add(self, scores: NeuronScores) -> None:
        """Takes in scores, [passages, tokens, tiles] each; passages wait until they are enough for the largest step.
        Where those that wait are of another length, as answers may be, the places that all have are looked at.
        """
        some = NeuronScores(*(each[:, ::_EVERY] for each in scores))
        if self._waiting is not None:
            pairs = zip(self._waiting, some, strict=True)
            some = NeuronScores(*(torch.cat([each[:, : _shorter(*pair)] for each in pair]) for pair in pairs))
        ready = len(some.value) // TOGETHER * TOGETHER
        self._take_in(NeuronScores(*(each[:ready] for each in some)))
        self._waiting = NeuronScores(*(each[ready:].clone() for each in some)) if ready < len(some.value) else None

    def finish(self) -> None:
        """Takes in the passages that wait; those that fill no step are left out."""
        if self._waiting is not None:
            self._take_in(self._waiting)
            self._waiting = None

    def _take_in(self, some: NeuronScores) -> None:
        for size, seen in self._sizes.items():
            if len(some.value) >= size:
                seen.add(NeuronScores(*(_joint(each, size) for each in some)))

    def spent(self, size: int, threshold: float) -> tuple[float, float] | None:
        """(bytes that a step of so many tokens reads there, of so many in all); None where no group was seen."""
        seen = self._sizes[size]
        return (seen.bytes_at(threshold), seen.whole_bytes) if seen.foreseen.counts.any() else None


def together(layers: Sequence[StepScores], thresholds: Sequence[float]) -> dict[str, list[list[float]]]:
    """By the tokens of a step, pairs [factor on the thresholds, share of all layers' bytes that the step reads]."""
    found = {}
    for size in STEPS:
        rows = []
        for factor in FACTORS:
            pairs = [layer.spent(size, threshold * factor) for layer, threshold in zip(layers, thresholds, strict=True)]
            seen = [pair for pair in pairs if pair is not None]
            if seen:
                rows.append([factor, sum(read for read, _ in seen) / sum(whole for _, whole in seen)])
        if rows:
            found[str(size)] = rows
    return found


def _shorter(first: Tensor, second: Tensor) -> int:
    return min(first.shape[1], second.shape[1])


def _joint(scores: Tensor, size: int) -> Tensor:
    groups = len(scores) // size
    whole = scores[: groups * size].reshape(groups, size, *scores.shape[1:])
    return whole.square().sum(1).sqrt()
