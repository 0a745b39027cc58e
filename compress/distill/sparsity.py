"""How sparse a layer's neurons are, and the pressure that makes them sparser."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.ffn.dense import FFN
from ...models.transformer import Layer, Transformer
from ..walk import walk
from .training import Lesson

Measure = Callable[[Tensor], Tensor]  # neurons [.., width] -> a number


def hoyer_square(neurons: Tensor) -> Tensor:
    """(|a|_1 / |a|_2)^2 / width, the mean over tokens: 1 / width for one active neuron, 1 for all alike; fp32.

    Of neurons that are all 0 it is 0. neurons: [.., width]. Hoyer 2004; D2DMoE (Szatkowski et al. 2024), section 3.1.
    """
    wide = neurons.float()
    power = wide.square().sum(-1)
    ratio = wide.abs().sum(-1).square() / torch.where(power > 0, power, torch.ones_like(power))
    return ratio.mean() / neurons.shape[-1]


def mean_magnitude(neurons: Tensor) -> Tensor:
    """The mean of |a|; fp32. ProSparse (Song et al. 2024), section 3.2."""
    return neurons.float().abs().mean()


MEASURES: dict[str, Measure] = {"hoyer": hoyer_square, "l1": mean_magnitude}


class SparsityLesson(Lesson):
    """Adds `weight` times a measure of what the FFNs' neurons give, the mean over layers.

    rising: the weight goes from 0 along half a cosine to its full size at the end (ProSparse, section 3.2).
    """

    def __init__(self, model: Transformer, weight: float, measure: Measure, rising: bool) -> None:
        self._weight, self._measure, self._rising = weight, measure, rising
        self._found: list[Tensor] = []
        for layer in model.layers:
            if isinstance(layer, Layer):
                layer.ffn.down.register_forward_pre_hook(self._watch)

    def extra(self, progress: float) -> Tensor | None:
        found, self._found = self._found, []
        rate = (1 - math.cos(math.pi * progress)) / 2 if self._rising else 1.0
        return self._weight * rate * torch.stack(found).mean()

    def _watch(self, down: nn.Module, given: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            self._found.append(self._measure(given[0]))


def activity(model: Transformer, windows: Tensor) -> dict[str, Any]:
    """What a model's neurons do on windows [sequences, length]: the share that is exactly 0, and `hoyer_square`."""
    zeros, spread = [], []

    def watch(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
        neurons = torch.cat([ffn.hidden(x).flatten(0, -2) for x in given])
        zeros.append(float((neurons == 0).float().mean()))
        spread.append(float(hoyer_square(neurons)))

    walk(model, windows, watch)
    return {"zeros": sum(zeros) / len(zeros), "hoyer": sum(spread) / len(spread), "zeros_by_layer": zeros}
