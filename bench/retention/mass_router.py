"""A router that estimates the mass of each expert from a few directions of its weights."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.activations import ACTIVATIONS
from .rivals import ELEMENT_BYTES
from .weights import FFNWeights

_ENTRIES = 1 << 22
TOTAL_RANK = 128  # of all experts together


@dataclass(frozen=True, slots=True)
class MassRouter:
    """||P_e x|| * ||Q_e x||, or ||Q_e x|| without a gate. first (P), second (Q): [experts, rank, hidden].

    P_e are rank-r factors of diag(s) G_e, where s_i^2 = E[(act(g) / g)^2] (sigmoid for SiLU), and Q_e those of
    diag(||D_:,i||) U_e; without a gate Q_e are those of diag(s_i ||D_:,i||) U_e. Biases are left out.
    Peak memory of scores: 16 MB beyond them and the fp32 of x.
    """

    first: Tensor | None
    second: Tensor
    reads_experts: bool = False

    @classmethod
    def fit(
        cls, weights: FFNWeights, size: int, x: Tensor, total_rank: int = TOTAL_RANK, whitened: bool = False
    ) -> "MassRouter":
        """weights in expert order; x: [tokens, hidden], recorded. Each expert has rank max(1, total_rank / experts).

        whitened: factors are the best for x as it is spread, E||P_e x||^2 is largest, not for x of every direction.
        To be left off under an absolute threshold, whose mean share drifts with it; for a fixed number of experts.
        """
        rank = max(1, total_rank // -(-len(weights.up) // size))
        moment = _second_moment(x) if whitened else None
        slopes = _root_mean_square_slopes(weights, x)
        if weights.gate is None:
            return cls(None, _factors(weights.up * (slopes * weights.down_norms)[:, None], size, rank, moment))
        first = _factors(weights.gate * slopes[:, None], size, rank, moment)
        return cls(first, _factors(weights.up * weights.down_norms[:, None], size, rank, moment))

    def scores(self, x: Tensor) -> Tensor:
        rows = max(1, _ENTRIES // (2 * self.second.shape[0] * self.second.shape[1]))
        return torch.cat([self._chunk(part.float()) for part in torch.split(x, rows)])

    def _chunk(self, x: Tensor) -> Tensor:
        lengths = _lengths(x, self.second)
        return lengths if self.first is None else lengths * _lengths(x, self.first)

    @property
    def num_bytes(self) -> int:
        return ELEMENT_BYTES * self.second.numel() * (1 if self.first is None else 2)


def _lengths(x: Tensor, factors: Tensor) -> Tensor:
    turned = functional.linear(x, factors.flatten(0, 1)).view(len(x), *factors.shape[:2])
    lengths: Tensor = torch.linalg.vector_norm(turned, dim=2)  # [tokens, experts]
    return lengths


def _factors(rows: Tensor, size: int, rank: int, moment: Tensor | None) -> Tensor:
    """A_r' W_e, [experts, rank, hidden], A_r the first left singular vectors of W_e M^(1/2), of W_e without M.

    Without M it is the first r rows of S V' of the singular value decomposition. At most `size` rows are not 0.
    """
    blocks = functional.pad(rows.float(), (0, 0, 0, -len(rows) % size)).view(-1, size, rows.shape[1])
    spread = blocks if moment is None else blocks @ moment
    vectors: Tensor = torch.linalg.eigh((spread @ blocks.mT).double()).eigenvectors  # of W M W', values ascending
    return (vectors[..., -min(rank, size) :].mT @ blocks.double()).float()


def _second_moment(x: Tensor) -> Tensor:
    """E[x x'], fp32 [hidden, hidden]."""
    total = torch.zeros(x.shape[1], x.shape[1])
    for part in torch.split(x, max(1, _ENTRIES // x.shape[1])):
        total.addmm_(part.float().T, part.float())
    return total / max(1, len(x))


def _root_mean_square_slopes(weights: FFNWeights, x: Tensor) -> Tensor:
    """sqrt(E[(act(g) / g)^2]), [width]; 16 MB at a time."""
    activation, width = ACTIVATIONS[weights.activation], len(weights.up)
    total = torch.zeros(width, dtype=torch.float64)
    for part in torch.split(x, max(1, _ENTRIES // width)):
        given = weights.preactivation(part)
        slopes = torch.where(given == 0, 0.5, activation(given) / given)  # half way between both sides
        total += slopes.square().sum(dim=0, dtype=torch.float64)
    return (total / max(1, len(x))).sqrt().float()
