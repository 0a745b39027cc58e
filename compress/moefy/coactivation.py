"""Which neurons fire together, counted over text, and experts of those that do."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...models.finite import NotFinite
from .cluster import Split
from .partition import cut_share, partition

_ENTRIES = 1 << 22
_ACTIVE_PART = 8  # by default a token marks one neuron in so many
NEIGHBOURS = 64


@dataclass(slots=True)
class CoActivation:
    """counts = A'A, where A [tokens, width] marks the `active` largest |h| of each token, and never a 0.

    So a gated or GELU FFN, of which no activation is 0, has a graph too. counts[i, j]: the tokens that mark both, fp32
    [width, width], exact up to 2^24 tokens. Memory: 4 width^2 bytes, and 32 MB for the marks of a chunk of tokens.
    """

    active: int
    tokens: int
    counts: Tensor

    @classmethod
    def empty(cls, width: int, active: int | None = None, device: torch.device | None = None) -> Self:
        """Counts of no token yet. By default a token marks one neuron in 8."""
        chosen = marked(width, active)
        if width < 1 or chosen < 1:
            raise ValueError(f"a token marks at least 1 neuron of at least 1, asked for {active} of {width}")
        return cls(chosen, 0, torch.zeros(width, width, device=device))

    @property
    def rates(self) -> Tensor:
        """The share of tokens that mark each neuron, [width]."""
        return self.counts.diagonal() / max(self.tokens, 1)

    def add(self, h: Tensor) -> None:
        """Takes in activations [tokens, width]. NaN and inf raise NotFinite."""
        width = len(self.counts)
        if h.shape[1:] != (width,):
            raise ValueError(f"h {list(h.shape)} is not [tokens, {width}]")
        for part in torch.split(h.detach(), max(1, _ENTRIES // width)) if len(h) else ():
            strength = part.to(self.counts.device, torch.float32).abs()
            if not bool(torch.isfinite(strength).all()):
                raise NotFinite("activations hold NaN or infinity, which cannot be compared")
            top = torch.topk(strength, self.active, dim=1)
            marks = torch.zeros_like(strength).scatter_(1, top.indices, (top.values > 0).float())
            self.counts.addmm_(marks.T, marks)
        self.tokens += len(h)

    def on_host(self) -> "CoActivation":
        """The same where groups are made of it."""
        return CoActivation(self.active, self.tokens, self.counts.cpu())

    def of(self, members: Tensor) -> "CoActivation":
        """The counts of these neurons alone."""
        return CoActivation(self.active, self.tokens, self.counts[members][:, members])


def marked(width: int, active: int | None = None) -> int:
    """How many neurons of so many a token marks."""
    return max(1, width // _ACTIVE_PART) if active is None else min(active, width)


def coactivation_split(found: CoActivation, size: int, seed: int = 0, neighbours: int = NEIGHBOURS) -> Split:
    """Experts of `size` neurons that fire together: a balanced partition of the co-activation graph.

    Zhang et al. 2022 (MoEfication), section 3.2, with its METIS replaced by partition.partition. The split's inertia
    is the share of the graph's weight that lies between experts. A neuron that never fires goes anywhere.
    """
    if size < 1:
        raise ValueError(f"an expert needs at least 1 neuron, asked for {size}")
    weights = neighbour_graph(found.counts, neighbours).numpy()
    labels = partition(weights, size, seed)
    order = torch.sort(torch.from_numpy(labels), stable=True).indices
    return Split(order, size, cut_share(weights, labels))


def neighbour_graph(counts: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """The counts of the pairs of which one is among the other's strongest neighbours, else 0; symmetric.

    Neighbours are ranked by counts[i, j] / sqrt(counts[i, i] counts[j, j]): by counts alone, a few neurons that fire
    everywhere would be the only neighbours of all.
    """
    often = counts.diagonal().clamp(min=1).rsqrt()
    likeness = (counts * often * often.unsqueeze(1)).fill_diagonal_(0)
    top = torch.topk(likeness, min(neighbours, len(counts) - 1), dim=1)
    kept = torch.zeros_like(counts, dtype=torch.bool).scatter_(1, top.indices, top.values > 0)
    return torch.where(kept | kept.T, counts, 0).fill_diagonal_(0)
