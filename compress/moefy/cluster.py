"""Which neurons form an expert together: balanced k-means on their weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ...models.finite import NotFinite

_LLOYD_STEPS = 15
_ASSIGNMENTS = 4  # at most: each begins at the means of the one before
_SWAP_PASSES = 4
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """`order` [neurons]: expert e holds the neurons order[e * size : (e + 1) * size], ascending; the last may be short.

    inertia: what the split keeps low. Of vectors: the sum of squared distances of the normalised ones from the means
    of their experts; coactivation and patterns say what theirs is.
    """

    order: Tensor
    size: int
    inertia: float

    @property
    def num_experts(self) -> int:
        return -(-len(self.order) // self.size)

    @property
    def labels(self) -> Tensor:
        """The expert of each neuron, [neurons]."""
        labels = torch.empty_like(self.order)
        labels[self.order] = torch.arange(len(self.order)) // self.size
        return labels


def balanced_kmeans(vectors: Tensor, size: int, seed: int = 0) -> Split:
    """Experts of exactly `size` neurons with similar vectors [neurons, inputs]: rows of up, of gate when gated.

    Rows are normalised (Zhang et al. 2022, MoEfication); k-means++ (Arthur and Vassilvitskii 2007) and
    Lloyd's steps find centres; neurons go to the nearest centre with room, those with the most to lose first; then
    pairs change places while that lowers the sum. Equal for a seed and a number of threads. Computes on the CPU.
    """
    points = _normalised(vectors, size)
    count = -(-len(points) // size)
    if count == 1 or size == 1:
        return _split(points, torch.arange(len(points)) // size, size)
    capacity = torch.full((count,), size)
    capacity[-1] = len(points) - size * (count - 1)
    centres = _lloyd(points, _seeds(points, count, seed))
    labels = _best_assignment(points, centres, capacity)
    for _ in range(_SWAP_PASSES):
        cost = _cost(points, _means(points, labels, count))
        if not swap_pairs(cost.numpy(), labels.numpy(), size):
            break
    return _split(points, labels, size)


def split_of(vectors: Tensor, labels: Tensor, size: int) -> Split:
    """The split, with its inertia, of neurons with vectors [neurons, inputs] and the expert of each, [neurons]."""
    return _split(_normalised(vectors, size), labels, size)


def _normalised(vectors: Tensor, size: int) -> Tensor:
    if size < 1 or not len(vectors):
        raise ValueError(f"an expert needs at least 1 neuron of at least 1, asked for {size} of {len(vectors)}")
    if not bool(torch.isfinite(vectors).all()):
        raise NotFinite("the vectors to cluster hold NaN or infinity, which have no distance")
    return functional.normalize(vectors.detach().to("cpu", torch.float32), dim=1)


def _split(points: Tensor, labels: Tensor, size: int) -> Split:
    means = _means(points, labels, -(-len(points) // size))
    inertia = (points.double() - means.double()[labels]).square().sum()
    return Split(torch.sort(labels, stable=True).indices, size, float(inertia))


def _means(points: Tensor, labels: Tensor, count: int) -> Tensor:
    """[count, inputs]; of no point, 0."""
    sums = torch.zeros(count, points.shape[1], dtype=torch.float64).index_add_(0, labels, points.double())
    return (sums / torch.bincount(labels, minlength=count).clamp(min=1).unsqueeze(1)).float()


def _cost(points: Tensor, centres: Tensor) -> Tensor:
    """||x_i - c_j||^2, [points, centres]."""
    lengths = points.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return torch.addmm(lengths, points, centres.T, alpha=-2)


def _seeds(points: Tensor, count: int, seed: int) -> Tensor:
    """k-means++: each next centre is a point drawn with a chance like its squared distance from those before."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = torch.full((len(points),), float("inf"))
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, _cost(points, points[chosen[-1:]]).squeeze(1)).clamp_(min=0)
        nearest[chosen] = 0
        chances = nearest if bool(nearest.any()) else torch.ones_like(nearest)  # fewer different points than centres
        chosen.append(int(torch.multinomial(chances, 1, generator=generator)))
    return points[chosen]


def _lloyd(points: Tensor, centres: Tensor) -> Tensor:
    """The centres after some of Lloyd's steps, that of the fewest points last: it will be the short expert's."""
    labels = torch.full((len(points),), -1)
    for _ in range(_LLOYD_STEPS):
        nearest = _cost(points, centres).argmin(dim=1)
        if torch.equal(nearest, labels):
            break
        labels, centres = nearest, _means(points, nearest, len(centres))
    fewest = int(torch.bincount(labels, minlength=len(centres)).argmin())
    return torch.cat([centres[:fewest], centres[fewest + 1 :], centres[fewest : fewest + 1]])


def _best_assignment(points: Tensor, centres: Tensor, capacity: Tensor) -> Tensor:
    best, lowest = torch.empty(0), float("inf")
    for _ in range(_ASSIGNMENTS):
        labels = assign_by_regret(_cost(points, centres), capacity)
        centres = _means(points, labels, len(capacity))
        inertia = float((points - centres[labels]).square().sum(dtype=torch.float64))
        if inertia >= lowest:
            break
        best, lowest = labels, inertia
    return best


def assign_by_regret(cost: Tensor, capacity: Tensor) -> Tensor:
    """Labels [points] that fill every cluster to its capacity [clusters]; cost: [points, clusters].

    Round by round each point left wants its nearest cluster that has room; those with the largest regret, which is
    what their second nearest would cost more, are served first.
    """
    labels = torch.full((len(cost),), -1)
    room = capacity.clone()
    left = torch.arange(len(cost))
    while len(left):
        is_open = room.nonzero().flatten()
        nearest = torch.topk(cost[left][:, is_open], min(2, len(is_open)), dim=1, largest=False)
        wanted = is_open[nearest.indices[:, 0]]
        regret = nearest.values[:, -1] - nearest.values[:, 0]
        queue = torch.sort(regret, descending=True, stable=True).indices
        queue = queue[torch.sort(wanted[queue], stable=True).indices]  # cluster by cluster, the largest regret first
        asked = torch.bincount(wanted, minlength=len(capacity))
        place = torch.arange(len(queue)) - (asked.cumsum(0) - asked)[wanted[queue]]
        served = queue[place < room[wanted[queue]]]
        labels[left[served]] = wanted[served]
        room -= torch.bincount(wanted[served], minlength=len(capacity))
        left = left[labels[left] < 0]
    return labels


def swap_pairs(cost: Floats, labels: Ints, size: int) -> int:
    """One pass, in place: who would rather be elsewhere changes places with whom that costs least, if it pays.

    Centres stand still meanwhile; moving them to the new means afterwards only lowers the sum further.
    """
    members = np.argsort(labels, kind="stable")  # cluster c: members[c * size : (c + 1) * size]
    place = np.argsort(members, kind="stable")
    own = cost[np.arange(len(labels)), labels]
    wanted = cost.argmin(axis=1)
    gain = own - cost.min(axis=1)
    swaps = 0
    for i in np.argsort(-gain, kind="stable")[: int((gain > 0).sum())]:
        ours, theirs = labels[i], wanted[i]
        if ours == theirs:
            continue
        others = members[theirs * size : (theirs + 1) * size]
        loss = cost[others, ours] - cost[others, theirs]
        j = others[int(loss.argmin())]
        if loss.min() < (cost[i, ours] - cost[i, theirs]) * (1 - 1e-6):
            labels[i], labels[j] = theirs, ours
            members[place[i]], members[place[j]] = j, i
            place[i], place[j] = place[j], place[i]
            swaps += 1
    return swaps
