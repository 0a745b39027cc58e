"""MoEfication's own router: a small network that learns which experts hold a token's activations."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .masks import top_tiles
from .rivals import ELEMENT_BYTES

_JUDGED_SHARE = 0.2  # of the experts of a token: how much of its mass they hold says which epoch is best


@dataclass(frozen=True, slots=True)
class MLPTraining:
    """The settings of Zhang et al. 2022; batch in tokens."""

    epochs: int = 30
    batch: int = 512
    learning_rate: float = 1e-2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class MLPRouter:
    """sigmoid(second tanh(first x / ||x||)). first: [experts, hidden], second: [experts, experts], no biases.

    captured: the mean share of a held-out token's mass that its best fifth of the experts holds; epoch: the one kept.
    """

    first: Tensor
    second: Tensor
    captured: float
    epoch: int
    reads_experts: bool = False

    @classmethod
    def fit(cls, x: Tensor, mass: Tensor, centroids: Tensor, training: MLPTraining | None = None) -> "MLPRouter":
        """Zhang et al. 2022 (MoEfication), section 3.3: binary cross-entropy on mass / the batch's largest, Adam.

        x: [tokens, hidden]; mass: [tokens, experts], at least 0, of the true activations (rivals.expert_sums or
        norms.tile_norms: never of normalised x, which GELU and SiLU rank otherwise); centroids [experts, hidden]
        (router.centroids) are where the first matrix begins, the second as the identity. One token in ten is held
        out, and the epoch, the start among them, that captures most of its mass is kept. Equal for a seed and a
        number of threads. Holds two copies of the weights and a batch. Raises ValueError below 2 tokens.
        """
        with torch.inference_mode(False), torch.enable_grad():
            return _trained(x, mass, centroids.detach().clone(), training or MLPTraining())

    def scores(self, x: Tensor) -> Tensor:
        return _logits(x, self.first, self.second).sigmoid()

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES * (self.first.numel() + self.second.numel())


def _logits(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    unit = functional.normalize(x.float(), dim=1)
    return functional.linear(functional.linear(unit, first).tanh(), second)


def _trained(x: Tensor, mass: Tensor, centroids: Tensor, training: MLPTraining) -> MLPRouter:
    if len(x) < 2:
        raise ValueError(f"a router learns from some tokens and is judged on others; there are {len(x)}, not 2 or more")
    generator = torch.Generator().manual_seed(training.seed)
    order = torch.randperm(len(x), generator=generator)
    held_out, train = order[: max(1, len(x) // 10)], order[max(1, len(x) // 10) :]
    first, second = centroids.float().requires_grad_(), torch.eye(len(centroids)).requires_grad_()
    optimizer = torch.optim.Adam([first, second], training.learning_rate, fused=False, foreach=False)
    best = MLPRouter(first.detach().clone(), second.detach().clone(), _captured(x, mass, held_out, first, second), 0)
    for epoch in range(1, 1 + training.epochs):
        shuffled = train[torch.randperm(len(train), generator=generator)]
        for rows in torch.split(shuffled, training.batch):
            loss = _loss(x[rows].clone(), mass[rows].float().clone(), first, second)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        captured = _captured(x, mass, held_out, first, second)
        if captured > best.captured:
            best = MLPRouter(first.detach().clone(), second.detach().clone(), captured, epoch)
    return best


def _loss(x: Tensor, mass: Tensor, first: Tensor, second: Tensor) -> Tensor:
    labels = mass / mass.max().clamp(min=1e-30)  # a batch without any mass wants no expert
    return functional.binary_cross_entropy_with_logits(_logits(x, first, second), labels)


@torch.no_grad()
def _captured(x: Tensor, mass: Tensor, rows: Tensor, first: Tensor, second: Tensor) -> float:
    true = mass[rows].float()
    share = max(_JUDGED_SHARE, 1 / true.shape[1])
    chosen = top_tiles(_logits(x[rows], first, second), share)
    return float(((true * chosen).sum(1) / true.sum(1).clamp(min=1e-30)).mean())
