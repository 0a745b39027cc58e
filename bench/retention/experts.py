"""Tiles of any size, split and routed as the literature does, and the ceilings and controls of routing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...compress.moefy.cluster import Split, balanced_kmeans
from ...compress.moefy.coactivation import CoActivation, coactivation_split
from ...compress.moefy.norms import tile_norms
from ...compress.moefy.patterns import pattern_split
from ...compress.moefy.router import RouterTraining, centroids
from ...models.progress import Progress
from .layer import LabLayer
from .masks import neuron_mask
from .mass_router import MassRouter
from .method import CalibrationData, Form, NotHere, Used
from .mlp_router import MLPRouter
from .nested import nested_split
from .random_split import random_split
from .rivals import (
    ELEMENT_BYTES,
    ExpertRouter,
    GateRouter,
    NormRegressionRouter,
    RandomRouter,
    RepresentativeRouter,
    SimilarityRouter,
    StaticRouter,
    expert_sums,
)  # fmt: skip
from .selection import AbsoluteThreshold, CapturedMass, FixedTopK, RelativeThreshold, Selection
from .weights import FFNWeights

SELECTIONS: dict[str, Callable[[Tensor, float], Selection]] = {
    "threshold": AbsoluteThreshold.fit,
    "relative threshold": RelativeThreshold.fit,
    "top-k": FixedTopK.fit,
    "captured mass": CapturedMass.fit,
}
SPLITS = ("weights", "random", "co-activation", "patterns")
NESTED = (128, 64, 32)  # the sizes that the split `nested` has
PERFECT = "perfect"
ROUTERS = (
    PERFECT, "norm regression", "MLP", "low-rank mass", "similarity", "representative", "gate", "scaled gate",
    "static", "random",
)  # fmt: skip


@dataclass
class Experts:
    """Experts of `size` neurons: who forms them, who routes, and the rule that keeps some. Perfect: true norms."""

    size: int
    split: str = "weights"
    router: str = PERFECT
    selection: str = "threshold"
    compensate: bool = True
    group: str = "experts"
    name: str = ""
    _layers: list["Prepared"] = field(default_factory=list)

    def __post_init__(self) -> None:
        tile = "neurons" if self.size == 1 else f"experts of {self.size}, {self.split}"
        rule = "" if self.selection == "threshold" else f", {self.selection}"
        self.name = self.name or f"{tile}, {self.router}{rule}"

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._layers = []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self._layers.append(self._prepared(layer, x, material.seed + i))
            progress(f"{self.name}: learning", i + 1, len(material.layers))

    def form(self, index: int, x: Tensor, share: float) -> Form:
        it = self._layers[index]
        kept = kept_share(it.layer, it.router, share)
        return chosen_by(it, self.size, SELECTIONS[self.selection](it.scores(x, self.size), kept))

    def _prepared(self, layer: LabLayer, x: Tensor, seed: int) -> "Prepared":
        found, representatives = self._split(layer, x, seed)
        weights = layer.weights if self.size == 1 else layer.weights.select(found.order)
        return Prepared(weights, layer, self._router(layer.weights, weights, representatives, x, seed))

    def _split(self, layer: LabLayer, x: Tensor, seed: int) -> tuple[Split, Tensor | None]:
        if self.split == "weights":
            return balanced_kmeans(layer.weights.rows, self.size, seed), None
        if self.split == "random":
            return random_split(layer.weights.rows, self.size, seed), None
        if self.split == "nested":
            return nested_split(layer.width, NESTED, partial(_some, layer.weights.rows, seed)).at(self.size), None
        seen = CoActivation.empty(layer.width)
        for part in torch.split(x, 2048):
            seen.add(layer.weights.hidden(part))
        if self.split == "co-activation":
            return coactivation_split(seen, self.size, seed), None
        found = pattern_split(seen, self.size)
        return found.split, found.representatives

    def _router(
        self, before: FFNWeights, weights: FFNWeights, representatives: Tensor | None, x: Tensor, seed: int
    ) -> ExpertRouter | None:
        h = weights.hidden(x)
        count = -(-h.shape[1] // self.size)
        if self.router == PERFECT:
            return None
        if self.router == "random":
            return RandomRouter(count, seed)
        if self.router == "similarity":
            return SimilarityRouter.fit(weights, self.size)
        if self.router == "low-rank mass":
            return MassRouter.fit(weights, self.size, x)
        if self.router == "MLP":
            return MLPRouter.fit(x, expert_sums(h, self.size), centroids(weights.rows, self.size))
        if self.router in ("gate", "scaled gate"):
            if weights.gate is None:
                raise NotHere("the FFN has no gate")
            return GateRouter.fit(weights, self.size, x if self.router == "scaled gate" else None)
        if self.router == "representative":
            if representatives is None:
                raise NotHere("representatives come with the split by patterns")
            return RepresentativeRouter.fit(before, representatives)
        norms = tile_norms(h, weights.down, self.size)
        if self.router == "static":
            return StaticRouter.fit(norms)
        return NormRegressionRouter.fit(x, norms, RouterTraining(seed=seed), centroids(weights.rows, self.size))


def _some(rows: Tensor, seed: int, neurons: Tensor, size: int) -> Split:
    return balanced_kmeans(rows[neurons], size, seed)


@dataclass(frozen=True)
class Prepared:
    """One layer in expert order. router: None for the perfect one."""

    weights: FFNWeights
    layer: LabLayer
    router: ExpertRouter | None

    def scores(self, x: Tensor, size: int) -> Tensor:
        """The scores of experts of so many neurons by their router: [tokens, experts]."""
        return self.norms(x, size) if self.router is None else self.router.scores(x)

    def norms(self, x: Tensor, size: int) -> Tensor:
        """What each expert puts out: [tokens, experts]."""
        return tile_norms(self.weights.hidden(x), self.weights.down, size)


def chosen_by(it: Prepared, size: int, rule: Selection) -> Form:
    """The layer with the experts that a rule keeps of the router's scores."""

    def compute(given: Tensor) -> Used:
        mask = neuron_mask(rule.mask(it.scores(given, size)), size, it.layer.width)
        y = it.layer.output(it.weights.hidden(given) * mask, it.weights.down)
        neurons = mask.float().mean(1)
        return Used(y, neurons + _routing(it.layer, it.router, neurons), neurons)

    return compute


def kept_share(layer: LabLayer, router: ExpertRouter | None, share: float) -> float:
    """The share of experts that this share of bytes pays for: routing + kept = share. Raises NotHere for too little."""
    nothing, everything = (float(_routing(layer, router, torch.tensor(kept))) for kept in (0.0, 1.0))
    kept = (share - nothing) / (1 + everything - nothing)
    if not 0 < kept <= 1:
        raise NotHere(f"the router alone reads {nothing:.2f} of the bytes, the share is {share:.2f}")
    return kept


def _routing(layer: LabLayer, router: ExpertRouter | None, computed: Tensor) -> Tensor:
    """Bytes of routing, as a share; what belongs to computed experts is read anyway, and int8."""
    if router is None:
        return torch.zeros_like(computed)
    share = router.num_bytes / layer.whole_bytes
    return share / ELEMENT_BYTES * (1 - computed) if router.reads_experts else torch.full_like(computed, share)
