"""Experts that every token computes, beside those that it chooses: with a searched share, and as CMoE has them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...compress.moefy.coactivation import CoActivation
from ...compress.moefy.patterns import PATTERN_ACTIVE, pattern_split
from ...models.progress import Progress
from .experts import SELECTIONS, Experts, Prepared, chosen_by, kept_share
from .layer import LabLayer
from .method import CalibrationData, Form, NotHere, error_of
from .rivals import RepresentativeRouter
from .selection import AlwaysOn, FixedTopK

_PARTS = (0.0, 0.125, 0.25, 0.5, 0.75)  # of what is computed
_SEARCHED_TOKENS = 2048


@dataclass
class SharedExperts(Experts):
    """Always on are the experts with the most energy, as many as leave the least error on calibration text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name += ", some always on"

    def form(self, index: int, x: Tensor, share: float) -> Form:
        it, some = self._layers[index], x[:_SEARCHED_TOKENS]
        energy = it.norms(some, self.size).square().mean(0)
        kept = kept_share(it.layer, it.router, share)
        counts = sorted({round(part * kept * len(energy)) for part in _PARTS})
        forms = [self._with(it, x, energy.topk(count).indices, kept) for count in counts]
        return min(forms, key=lambda form: error_of(it.layer, some, form, self.compensate))

    def _with(self, it: Prepared, x: Tensor, always: Tensor, kept: float) -> Form:
        scores = it.scores(x, self.size)
        shared = torch.zeros(scores.shape[1], dtype=torch.bool)
        shared[always] = True
        return chosen_by(it, self.size, AlwaysOn.fit(SELECTIONS[self.selection], shared, scores, kept))


@dataclass
class CMoE:
    """CMoE without its training (Pei et al. 2025): half of what is computed is shared, the rest is the top k by
    representative neurons. The published one has 8 experts a layer, three shared and three routed at 25 % sparsity.
    """

    size: int
    compensate: bool = False
    group: str = "experts"
    name: str = ""
    _layers: list[tuple[LabLayer, CoActivation]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or f"CMoE, experts of {self.size}"

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers = []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            seen = CoActivation.empty(layer.width, PATTERN_ACTIVE)
            for part in torch.split(x, _SEARCHED_TOKENS):
                seen.add(layer.weights.hidden(part))
            self._layers.append((layer, seen))
            progress(f"{self.name}: learning", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        layer, seen = self._layers[index]
        count = -(-layer.width // self.size)
        first = pattern_split(seen, self.size)
        kept = kept_share(layer, RepresentativeRouter.fit(layer.weights, first.representatives), share)
        found = pattern_split(seen, self.size, round(kept * count / 2))
        router = RepresentativeRouter.fit(layer.weights, found.representatives, normalised=True)
        it = Prepared(layer.weights.select(found.split.order), layer, router)
        if round(kept * count) <= found.num_shared:
            raise NotHere(f"{kept:.2f} of {count} experts leave none to choose")
        return chosen_by(it, self.size, AlwaysOn.fit(FixedTopK.fit, found.shared, it.scores(x, self.size), kept))
