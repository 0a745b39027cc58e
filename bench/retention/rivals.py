"""Routers that others have published, and controls, behind one protocol: a score of at least 0 for each expert.

Every one is made of fp32 tensors over experts of `size` neurons in a row, so weights and activations come in expert
order; the last expert may be short. Bytes are counted as served: bf16.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...compress.moefy.router import EpochReport, RouterTraining, centroids, train_router
from ...kernels.activations import ACTIVATIONS
from ...kernels.route import route_scores_torch
from .masks import chance
from .weights import FFNWeights

ELEMENT_BYTES = 2  # bf16
_ENTRIES = 1 << 22  # values of a chunk of tokens in memory at once: 16 MB


class ExpertRouter(Protocol):
    """What says, for each token, how much it wants each expert."""

    def scores(self, x: Tensor) -> Tensor:
        """fp32 [tokens, experts], at least 0 and the higher the better. x: [tokens, hidden], as the FFN sees it."""
        ...

    @property
    def num_bytes(self) -> int:
        """What a lone token reads to route."""
        ...

    @property
    def reads_experts(self) -> bool:
        """Whether these bytes belong to the experts, so that one who computes an expert has read its part already."""
        ...


@dataclass(frozen=True, slots=True)
class SimilarityRouter:
    """2 - || x / ||x|| - c_e ||, where c_e is the mean of the expert's normalised rows (MoEfication, section 3.3).

    centroids: [experts, hidden]. The paper's score is the negative distance; 2, the longest that can be, keeps the
    order and makes it positive. Peak memory beyond x: 4 bytes for each of x and the scores.
    """

    centroids: Tensor
    reads_experts: bool = False

    @classmethod
    def fit(cls, weights: FFNWeights, size: int) -> "SimilarityRouter":
        return cls(centroids(weights.rows, size))

    def scores(self, x: Tensor) -> Tensor:
        distances = torch.cdist(_unit(x), self.centroids, compute_mode="donot_use_mm_for_euclid_dist")
        return (2 - distances).clamp_(min=0)

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES * self.centroids.numel()


@dataclass(frozen=True, slots=True)
class RepresentativeRouter:
    """|act(g_R x) * (u_R x)|, or |act(u_R x)| without a gate, of one neuron R for each expert (CMoE, section 3.2).

    neurons: these neurons alone, as an FFN of their own. What a chosen expert reads anyway is among its bytes.
    """

    neurons: FFNWeights
    reads_experts: bool = True

    @classmethod
    def fit(cls, weights: FFNWeights, representatives: Tensor, normalised: bool = False) -> "RepresentativeRouter":
        """representatives: [experts], numbered as the rows of `weights` are: PatternSplit's with weights as they were
        before the split. normalised: rows of length 1 and no biases, as CMoE has them; other than ReLU, no activation
        then keeps its ranking.
        """
        chosen = weights.select(representatives)
        if normalised:
            gate = None if chosen.gate is None else functional.normalize(chosen.gate, dim=1)
            chosen = FFNWeights(functional.normalize(chosen.up, dim=1), chosen.down, chosen.activation, gate)
        return cls(chosen)

    def scores(self, x: Tensor) -> Tensor:
        return self.neurons.hidden(x).abs()

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES * self.neurons.up.numel() * (1 if self.neurons.gate is None else 2)


@dataclass(frozen=True, slots=True)
class GateRouter:
    """sqrt(sum over the expert's neurons of (s_i act(g_i x))^2): the gate itself decides (CATS, Lee et al. 2024).

    scale [width]: 1 for the plain form; else rms(u_i x) * ||D_:,i||, what a neuron gives if its up is as usual. With
    experts of one neuron this is |s_i act(g_i x)|. Reads the whole gate. Peak memory: 16 MB beyond the scores.
    """

    weights: FFNWeights
    scale: Tensor
    size: int
    reads_experts: bool = True

    @classmethod
    def fit(cls, weights: FFNWeights, size: int, x: Tensor | None = None) -> "GateRouter":
        """Fits it plain without x, scaled with recorded x [tokens, hidden]. Raises ValueError without a gate."""
        if weights.gate is None:
            raise ValueError("the gate routes only where there is one; this FFN has none: choose another router")
        if x is None:
            return cls(weights, torch.ones(len(weights.up)), size)
        total = torch.zeros(len(weights.up), dtype=torch.float64)
        for part in torch.split(x, _rows(len(weights.up))):
            total += functional.linear(part.float(), weights.up, weights.up_bias).square().sum(0, dtype=torch.float64)
        return cls(weights, (total / max(1, len(x))).sqrt().float() * weights.down_norms, size)

    def scores(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.weights.activation]
        parts = torch.split(x, _rows(len(self.scale)))
        chunks = [expert_lengths(activation(self.weights.preactivation(x)) * self.scale, self.size) for x in parts]
        return torch.cat(chunks)

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES * self.weights.up.numel()


@dataclass(frozen=True, slots=True)
class NormRegressionRouter:
    """Trained on the norms of the experts' outputs: router.train_router."""

    first: Tensor
    second: Tensor
    reads_experts: bool = False

    @classmethod
    def fit(
        cls, x: Tensor, norms: Tensor, training: RouterTraining, initial: Tensor | None = None,
        progress: EpochReport | None = None,
    ) -> "NormRegressionRouter":  # fmt: skip
        """x: [tokens, hidden]; norms: [tokens, experts], norms.tile_norms; see router.train_router."""
        found = train_router(x, norms, training, initial, progress)
        return cls(found.first, found.second)

    def scores(self, x: Tensor) -> Tensor:
        return route_scores_torch(x, self.first, self.second)

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES * (self.first.numel() + self.second.numel())


@dataclass(frozen=True, slots=True)
class RandomRouter:
    """Chance between 0 and 1: the control. A token's depends on the seed and its own x alone, not on its batch."""

    num_experts: int
    seed: int = 0
    reads_experts: bool = False

    def scores(self, x: Tensor) -> Tensor:
        places = 2 * torch.arange(x.shape[1], device=x.device) + 1
        tokens = (x.float().contiguous().view(torch.int32).long() * places**3).sum(dim=1)
        return ((chance(tokens, self.num_experts, self.seed) >> 40) + (1 << 23)).float() / (1 << 24)

    @property
    def num_bytes(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class StaticRouter:
    """Each expert's mean norm, the same for every token: the control that needs no routing. means: [experts]."""

    means: Tensor
    reads_experts: bool = False

    @classmethod
    def fit(cls, norms: Tensor) -> "StaticRouter":
        """norms: [tokens, experts], at least 0."""
        return cls(norms.mean(dim=0, dtype=torch.float64).float())

    def scores(self, x: Tensor) -> Tensor:
        return self.means.expand(len(x), -1)

    @property
    def num_bytes(self) -> int:
        return 0


def expert_lengths(values: Tensor, size: int) -> Tensor:
    """The length of each expert's part of [tokens, width], fp32 [tokens, experts]; the last may be short."""
    if size == 1:
        return values.float().abs()
    lengths: Tensor = torch.linalg.vector_norm(_blocks(values, size), dim=2)
    return lengths


def expert_sums(h: Tensor, size: int) -> Tensor:
    """s_e = sum over the expert's neurons of |h|, fp32 [tokens, experts]: MoEfication's ground truth for any h."""
    return _blocks(h, size).abs().sum(dim=2)


def _blocks(values: Tensor, size: int) -> Tensor:
    """fp32 [tokens, experts, size], zeros where the last expert is short."""
    return functional.pad(values.float(), (0, -values.shape[1] % size)).view(len(values), -1, size)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=1)


def _rows(width: int) -> int:
    return max(1, _ENTRIES // width)
