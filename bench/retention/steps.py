"""Several tokens in one step: what they read together, and whether choosing together beats each choosing for itself."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from ...compress.moefy.budget import PlaneScores
from ...kernels.plane_ffn import PlaneNeurons, PlaneWeights, plane_neurons
from ...kernels.planes.choice import NeuronScores
from ...models.progress import Progress
from .layer import LabLayer
from .method import CalibrationData, Form, NotHere, Used
from .planes import Planes

_SEARCHED_TOKENS = 512
_BISECTIONS = 30
_LOWEST, _HIGHEST = -44.0, 24.0  # powers of 2


@dataclass
class StepPlanes:
    """Bit planes for a step of `tokens` tokens drawn by chance; a share is that of the bytes which the step reads.

    together: a neuron is read for all tokens of the step where the roots of their summed squared scores say so: what is
    read once removes loss from each of them. Else each token computes what it would alone. Layers have equal shares.
    """

    planes: Planes
    tokens: int
    together: bool
    group: str = "several tokens"
    name: str = ""
    _weights: list[PlaneWeights] = field(default_factory=list)
    _layers: list[LabLayer] = field(default_factory=list)

    def __post_init__(self) -> None:
        how = "chosen together" if self.together else "each its own"
        self.name = self.name or f"{self.planes.name}, {self.tokens} tokens a step, {how}"

    @property
    def compensate(self) -> bool:
        return self.planes.compensate

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self.planes.learn(material, progress)
        self._layers, self._weights = material.layers, self.planes.weights

    def form(self, index: int, x: Tensor, share: float) -> Form:
        costs = PlaneScores.unseen(self._layers[index].shape, self.planes.bits, self.planes.refined_bits)
        if costs.fixed_bytes >= share * costs.whole_bytes:
            raise NotHere(f"the high {self.planes.bits} bits alone are more than {share:.2f} of the bytes")
        thresholds = self._thresholds(index, x[_drawn(len(x))][:_SEARCHED_TOKENS], share, costs)
        return lambda given: self._used(index, given, thresholds, costs)

    def _thresholds(self, index: int, x: Tensor, share: float, costs: PlaneScores) -> Tensor:
        scores = self._neurons(index, x).scores(self._weights[index].fit)
        low, high = _LOWEST, _HIGHEST
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            read = self._read(*self._chosen(scores, costs.thresholds(2.0**middle)), costs)
            low, high = (low, middle) if float(read.mean()) <= share else (middle, high)
        return costs.thresholds(2.0**high)

    def _used(self, index: int, x: Tensor, thresholds: Tensor, costs: PlaneScores) -> Used:
        order = _drawn(len(x))
        found = self._neurons(index, x[order])
        computed, refined = self._chosen(found.scores(self._weights[index].fit), thresholds)
        h = torch.where(computed, torch.where(refined, found.refined, found.rough), 0.0)
        read = self._read(computed, refined, costs).repeat_interleave(self.tokens)[: len(x)]
        back = torch.argsort(order)
        return Used(self._layers[index].output(h)[back], read[back], computed.float().mean(1)[back])

    def _neurons(self, index: int, x: Tensor) -> PlaneNeurons:
        return plane_neurons(x, self._weights[index], self.planes.bits, self._layers[index].weights.activation)

    def _chosen(self, scores: NeuronScores, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """(computed, refined), bool [tokens, width]."""
        if not self.together:
            return scores.chosen(thresholds.expand(len(scores.value), 2))
        joint = NeuronScores(*(self._steps(each).square().sum(1).sqrt() for each in scores))
        chosen = joint.chosen(thresholds.expand(len(joint.value), 2))
        computed, refined = (each.repeat_interleave(self.tokens, dim=0)[: len(scores.value)] for each in chosen)
        return computed, refined

    def _read(self, computed: Tensor, refined: Tensor, costs: PlaneScores) -> Tensor:
        """The share of the bytes that all tokens of each step read: [steps]."""
        unions = (self._steps(each).any(1).float().mean(1) for each in (computed, refined))
        down, low = unions
        return (costs.fixed_bytes + down * costs.down_bytes + low * costs.low_bytes) / costs.whole_bytes

    def _steps(self, each: Tensor) -> Tensor:
        """[tokens, width] -> [steps, tokens of a step, width], the last one filled up with nothing."""
        filled = functional.pad(each, (0, 0, 0, -len(each) % self.tokens))
        return filled.view(-1, self.tokens, each.shape[1])


def _drawn(tokens: int) -> Tensor:
    return torch.randperm(tokens, generator=torch.Generator().manual_seed(0))
