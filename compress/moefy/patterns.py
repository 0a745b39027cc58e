"""Experts of neurons that are among the strongest of the same tokens, and neurons that every token needs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cluster import Split, assign_by_regret, swap_pairs
from .coactivation import CoActivation

PATTERN_ACTIVE = 10  # K_a: the strongest neurons of a token
_ROUNDS = 10  # at most: each begins at the means of the one before
_SWAP_PASSES = 4


@dataclass(frozen=True, slots=True)
class PatternSplit:
    """The first `num_shared` experts of the split are those that are always on; the others are routed.

    representatives: of each expert, shared ones too, the neuron whose pattern is nearest to the expert's mean,
    [experts], numbered as the neurons were before the split. With few marks a token the means are near 0, and so are
    the neurons nearest to them: as a router's those of more marks (a neuron in 8) foresee more.
    """

    split: Split
    num_shared: int
    representatives: Tensor

    @property
    def shared(self) -> Tensor:
        """Which experts are always on, bool [experts]."""
        return torch.arange(self.split.num_experts) < self.num_shared


def pattern_split(found: CoActivation, size: int, num_shared: int = 0) -> PatternSplit:
    """The split of CMoE (Pei et al. 2025): neurons by their columns a_i of the marks A [tokens, width].

    The neurons with the highest rates make the shared experts. Of the rest, those with the highest rates are the first
    centres; neurons are assigned in equal numbers by ||a_i - c_e||^2, then centres move to the means and pairs change
    places while the sum falls (CMoE assigns once, exactly). found.active is CMoE's K_a, 10 there. With counts = A'A,

        ||a_i - c_e||^2 = counts[i, i] - 2 mean_j counts[i, j] + mean_jk counts[j, k],    j, k in expert e,

    so that A itself is never held. The split's inertia is the sum of these over routed neurons, for each token seen.
    Nothing is drawn by chance. A neuron that is never marked is 0 away from others like it.
    """
    width = len(found.counts)
    if size < 1 or not 0 <= num_shared * size < width:
        raise ValueError(
            f"{num_shared} shared experts of {size} do not leave a neuron of {width} to route; lower one of them"
        )
    ranked = torch.sort(found.counts.diagonal(), descending=True, stable=True).indices
    routed = ranked[num_shared * size :].sort().values
    counts = found.counts[routed][:, routed]
    inner = _assigned(counts, size)
    labels = torch.empty(width, dtype=torch.int64)
    labels[ranked[: num_shared * size]] = torch.arange(num_shared * size) // size
    labels[routed] = inner + num_shared
    inertia = float(_distances(counts, inner).gather(1, inner[:, None]).sum(dtype=torch.float64))
    split = Split(torch.sort(labels, stable=True).indices, size, inertia / max(found.tokens, 1))
    return PatternSplit(split, num_shared, _representatives(found.counts, labels))


def _assigned(counts: Tensor, size: int) -> Tensor:
    """The expert of each neuron, [neurons]."""
    width = len(counts)
    experts = -(-width // size)
    if experts == 1 or size == 1:
        return torch.arange(width) // size
    capacity = torch.full((experts,), size)
    capacity[-1] = width - size * (experts - 1)
    rates = counts.diagonal()
    centres = torch.sort(rates, descending=True, stable=True).indices[:experts]
    cost = rates.unsqueeze(1) - 2 * counts[:, centres] + rates[centres]
    best, lowest = torch.empty(0, dtype=torch.int64), float("inf")
    for _ in range(_ROUNDS):
        labels = assign_by_regret(cost, capacity)
        cost = _distances(counts, labels)
        inertia = float(cost.gather(1, labels[:, None]).sum(dtype=torch.float64))
        if inertia >= lowest:
            break
        best, lowest = labels, inertia
    for _ in range(_SWAP_PASSES):
        if not swap_pairs(_distances(counts, best).numpy(), best.numpy(), size):
            break
    return best


def _distances(counts: Tensor, labels: Tensor) -> Tensor:
    """||a_i - mean of expert e||^2, at least 0, [neurons, experts]."""
    members = torch.nn.functional.one_hot(labels).float()
    members /= members.sum(dim=0)
    to_means = counts @ members  # a_i . c_e
    lengths = (members * to_means).sum(dim=0)  # ||c_e||^2
    return (counts.diagonal().unsqueeze(1) - 2 * to_means + lengths).clamp_(min=0)


def _representatives(counts: Tensor, labels: Tensor) -> Tensor:
    distances = _distances(counts, labels)
    elsewhere = labels.unsqueeze(1) != torch.arange(distances.shape[1])
    return distances.masked_fill(elsewhere, float("inf")).argmin(dim=0)
