"""How recipes choose which neurons go: each method of the stage `prune` by its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ...models.ffn.dense import FFN
from ...models.linear import dense_weight
from .scores import flap_scores, magnitude_scores, random_scores
from .statistics import NeuronStatistics


@dataclass(frozen=True, slots=True)
class LayerNeurons:
    """What a method may know of a layer's neurons. up, gate: fp32 [width, hidden]; down: fp32 [hidden, width].

    found: over the calibration text; of no token where neither the method nor a bias for what goes needs it.
    """

    ffn: FFN
    found: NeuronStatistics
    seed: int

    @property
    def up(self) -> Tensor:
        return dense_weight(self.ffn.up)

    @property
    def gate(self) -> Tensor | None:
        return None if self.ffn.gate is None else dense_weight(self.ffn.gate)

    @property
    def down(self) -> Tensor:
        return dense_weight(self.ffn.down)


@dataclass(frozen=True, slots=True)
class Method:
    """scores: [width], the lowest go first. needs_text: whether it looks at `found`."""

    scores: Callable[[LayerNeurons], Tensor]
    needs_text: bool = False


METHODS: Mapping[str, Method] = {
    "flap": Method(lambda layer: flap_scores(layer.found.variance, layer.down), needs_text=True),
    "magnitude": Method(lambda layer: magnitude_scores(layer.up, layer.down, layer.gate)),
    "random": Method(lambda layer: random_scores(layer.ffn.width, layer.seed)),
}
