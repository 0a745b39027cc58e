"""How much a neuron matters, one figure each, and figures that compare across layers."""

import torch
from torch import Tensor

from ...models.finite import NotFinite


def flap_scores(variance: Tensor, down: Tensor) -> Tensor:
    """score[j] = Var(h_j) * ||D[:, j]||^2, fp64 [width]. variance: [width], down: [hidden, width].

    What the layer's output loses in the mean square when h_j becomes its mean: nothing for a neuron that never
    changes, since a bias can take its place (compensate.py). FLAP: An et al. 2024.
    """
    return variance.double() * _column_norms(down).square()


def magnitude_scores(up: Tensor, down: Tensor, gate: Tensor | None = None) -> Tensor:
    """score[j] = ||U[j, :]|| * ||D[:, j]|| (* ||G[j, :]|| when gated), fp64 [width]. Sees no data.

    The product stays what it is when a neuron's rows are scaled up and its column down by as much.
    """
    scores = _row_norms(up) * _column_norms(down)
    return scores if gate is None else scores * _row_norms(gate)


def random_scores(width: int, seed: int) -> Tensor:
    """Uniform in [0, 1), fp64 [width]: the control that every other score has to beat."""
    return torch.rand(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standardise(scores: Tensor) -> Tensor:
    """(s - mean) / std within a layer, so that layers of any scale meet in one ranking (FLAP); all 0 where std is 0.

    std divides by one less than the width, as FLAP's does. NaN and inf raise NotFinite.
    """
    exact = scores.double()
    if not exact.isfinite().all():
        raise NotFinite("the scores of its neurons hold NaN or infinity, which have no rank")
    if len(exact) < 2 or bool((exact == exact[0]).all()):
        return torch.zeros_like(exact)
    return (exact - exact.mean()) / exact.std()


def _row_norms(matrix: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
    return norms


def _column_norms(matrix: Tensor) -> Tensor:
    return _row_norms(matrix.T)
