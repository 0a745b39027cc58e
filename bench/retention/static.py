"""What every token pays alike: pruned neurons, or fewer bits for all weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...compress.prune.choose import choose_neurons
from ...compress.prune.scores import flap_scores, magnitude_scores, random_scores, standardise
from ...compress.prune.statistics import NeuronStatistics
from ...models.progress import Progress
from .layer import LabLayer, used_by_all
from .method import CalibrationData, Form, NotHere, Used
from .weights import FFNWeights

_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
PRUNINGS = ("FLAP", "Fisher", "magnitude", "random")


@dataclass
class Pruned:
    """One ranking of the neurons of all layers. FLAP (An et al. 2024); Fisher: Var[h] importance^2, the second-order
    Taylor term of the loss (LLM-Pruner, Ma et al. 2023, keeps its first). What goes is replaced by its mean.
    """

    score: str
    compensate: bool = True
    group: str = "static pruning"
    name: str = ""
    _layers: list[LabLayer] = field(default_factory=list)
    _scores: list[Tensor] = field(default_factory=list)
    _stay: dict[float, Sequence[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.score} pruning"

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers, self._scores, self._stay = material.layers, [], {}
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self._scores.append(self._scored(layer, x, material.importance[i], material.seed + i))
            progress(f"{self.name}: scores", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        layer = self._layers[index]
        if share not in self._stay:
            self._stay[share] = choose_neurons(self._scores, 1 - share)
        stay = self._stay[share][index]
        weights, part = layer.weights.select(stay), len(stay) / layer.width
        return lambda given: Used(
            layer.output(weights.hidden(given), weights.down), used_by_all(part, given), used_by_all(part, given)
        )

    def _scored(self, layer: LabLayer, x: Tensor, importance: Tensor, seed: int) -> Tensor:
        weights = layer.weights
        if self.score == "random":
            return random_scores(layer.width, seed)
        if self.score == "magnitude":
            return standardise(magnitude_scores(weights.up, weights.down, weights.gate))
        seen = NeuronStatistics.empty(layer.width)
        seen.add(weights.hidden(x))
        if self.score == "Fisher":
            return seen.variance * importance.double().square()
        return standardise(flap_scores(seen.variance, weights.down))


@dataclass
class FewerBits:
    """The original weights rounded to nearest, with a 16-bit scale for each `columns` of a row: of a few, the one that
    errs least. GPTQ and AWQ, which look at inputs too, lose less.
    """

    bits: int
    columns: int
    compensate: bool = False
    group: str = "fewer bits"
    name: str = ""
    _forms: list[tuple[LabLayer, FFNWeights]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or f"int{self.bits} to nearest, groups of {self.columns}"

    @property
    def share(self) -> float:
        """The share of the bytes of int8, whatever is asked for."""
        return (self.bits + 16 / self.columns) / 8

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._forms = [(layer, self._rounded(layer.original)) for layer in material.layers]

    def form(self, index: int, x: Tensor, share: float) -> Form:
        if abs(share - self.share) > 0.05:
            raise NotHere(f"these weights are {self.share:.2f} of the bytes")
        layer, weights = self._forms[index]
        return lambda given: Used(
            layer.output(weights.hidden(given), weights.down), used_by_all(self.share, given), used_by_all(1.0, given)
        )

    def _rounded(self, weights: FFNWeights) -> FFNWeights:
        gate = None if weights.gate is None else self._matrix(weights.gate)
        return replace(weights, up=self._matrix(weights.up), down=self._matrix(weights.down), gate=gate)

    def _matrix(self, matrix: Tensor) -> Tensor:
        columns = matrix.shape[1]
        padded = torch.nn.functional.pad(matrix, (0, -columns % self.columns))
        groups = padded.view(len(matrix), -1, self.columns)
        best, least = groups, torch.full_like(groups[..., :1], float("inf"))
        for part in _CLIPS:
            rounded = self._spelled(groups, part)
            error = (rounded - groups).square().sum(-1, keepdim=True)
            best, least = torch.where(error < least, rounded, best), torch.minimum(error, least)
        whole: Tensor = best.flatten(1)
        return whole[:, :columns]

    def _spelled(self, groups: Tensor, part: float) -> Tensor:
        """Rounds with a scale at which the largest of a group is `part` of the largest number of so many bits."""
        most = 2 ** (self.bits - 1)
        scale = (part * groups.abs().amax(-1, keepdim=True) / (most - 1)).half().float()
        spelled: Tensor = (groups / torch.where(scale > 0, scale, 1)).round().clamp(-most, most - 1) * scale
        return spelled
