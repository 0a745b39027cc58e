"""Which tiles a tier uses on text: how evenly, how many a token, how many together, and how well they are chosen."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..moefy.union import consecutive_unions

RARE = 0.001  # a tile that a smaller share of tokens uses is rare


@dataclass(frozen=True, slots=True)
class LayerUsage:
    """A layer at a tier. usage: the share of tokens that use each tile; k: the share of tiles that a token uses.

    unions: the share of tiles that so many consecutive tokens use together; by_chance: what tokens independent of
    each other would, with the same usage: the mean over tiles of 1 - (1 - usage)^tokens.
    recall: of the tiles computed, the share that a perfect router, which knows the norms of their outputs, takes
    when it takes as many of the token; captured, perfect: the parts of the sum of all norms that lie in the tiles
    that either takes. Where nothing was computed recall is 1.
    """

    usage: tuple[float, ...]
    k_mean: float
    k_p10: float
    k_p90: float
    unions: dict[int, float]
    by_chance: dict[int, float]
    recall: float
    captured: float
    perfect: float

    @property
    def rare(self) -> tuple[int, ...]:
        """Tiles that fewer than RARE of the tokens use."""
        return tuple(i for i, share in enumerate(self.usage) if share < RARE)

    @property
    def gini(self) -> float:
        """The Gini coefficient of usage: 0 where all tiles are used alike, near 1 where one does all."""
        return gini(torch.tensor(self.usage, dtype=torch.float64))


def gini(values: Tensor) -> float:
    """The mean absolute difference of two values over twice the mean: 0 to 1 - 1/n for n values >= 0."""
    ordered, count = values.double().sort().values, len(values)
    total = float(ordered.sum())
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    return float((2 * ranks - count - 1) @ ordered) / (count * total) if total else 0.0


def mean_unions(layers: Sequence[LayerUsage]) -> dict[int, tuple[float, float]]:
    """The share of tiles that so many consecutive tokens use together, in fact and by chance: means over layers."""
    return {
        size: (
            sum(layer.unions[size] for layer in layers) / len(layers),
            sum(layer.by_chance[size] for layer in layers) / len(layers),
        )
        for size in layers[0].unions
    }


class UsageCount:
    """Running sums of one layer at one tier; memory does not grow with the text."""

    def __init__(self, tiles: int, device: torch.device | None = None) -> None:
        self._uses = torch.zeros(tiles, dtype=torch.int64, device=device)
        self._tokens_by_k = torch.zeros(tiles + 1, dtype=torch.int64, device=device)
        self._unions: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])  # sum of shares, groups
        self._right = 0
        self._mass = torch.zeros(3, dtype=torch.float64, device=device)  # of norms: captured, perfect, all

    def add(self, active: Tensor, norms: Tensor) -> None:
        """Takes in passages: active is bool [passages, tokens, tiles], norms [passages * tokens, tiles]."""
        for size, (total, groups) in consecutive_unions(active).items():
            self._unions[size][0] += total
            self._unions[size][1] += groups
        flat = active.flatten(0, 1)
        k = flat.sum(1)
        self._uses += flat.sum(0)
        self._tokens_by_k += torch.bincount(k, minlength=len(self._tokens_by_k))
        ordered = norms.sort(dim=1, descending=True).values
        places = torch.arange(norms.shape[1], device=k.device)
        taken = places < k.unsqueeze(1)  # of the ordered norms, by the perfect router
        least = ordered.masked_fill(~taken, float("inf")).amin(1, keepdim=True)  # of those; equal norms are as good
        self._right += int((flat & (norms >= least)).sum())
        self._mass += torch.stack([_sum(norms * flat), _sum(ordered * taken), _sum(norms)])

    def result(self) -> LayerUsage:
        tokens, tiles = int(self._tokens_by_k.sum()), len(self._uses)
        usage, uses = self._uses.double() / tokens, int(self._uses.sum())
        captured, perfect, whole = self._mass.tolist()
        return LayerUsage(
            tuple(usage.tolist()), uses / (tokens * tiles), self._k_at(0.1), self._k_at(0.9),
            {size: total / groups for size, (total, groups) in self._unions.items()},
            {size: float((1 - (1 - usage) ** size).mean()) for size in self._unions},
            self._right / uses if uses else 1.0, captured / whole if whole else 1.0, perfect / whole if whole else 1.0,
        )  # fmt: skip

    def _k_at(self, part: float) -> float:
        """The share of tiles that this part of the tokens does not exceed."""
        seen = self._tokens_by_k.cumsum(0)
        return int((seen >= part * seen[-1]).nonzero()[0]) / len(self._uses)


def _sum(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)
