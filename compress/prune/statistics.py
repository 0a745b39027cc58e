"""What a layer's neurons do over the calibration tokens, gathered as the tokens come."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ...models.finite import NotFinite

_ENTRIES = 1 << 22  # activations in fp64 at once: 32 MB


@dataclass(slots=True)
class NeuronStatistics:
    """Count, mean and variance of each neuron's activation h_j, all fp64 [width].

    `deviations` is sum_t (h_tj - mean_j)^2: kept about the mean, it loses nothing where the mean is large.
    Parts are merged after Chan, Golub and LeVeque (1979), so tokens may come in any cuts, on any number of workers.
    """

    count: int
    mean: Tensor
    deviations: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> Self:
        """Statistics of no token yet."""
        return cls(0, *(torch.zeros(width, dtype=torch.float64, device=device) for _ in range(2)))

    def add(self, h: Tensor) -> None:
        """Takes in activations [tokens, width] of real tokens; leave padding out. NaN or inf raise NotFinite."""
        if h.ndim != 2 or h.shape[1] != len(self.mean):
            raise ValueError(f"activations must be [tokens, {len(self.mean)}], these are {list(h.shape)}")
        for part in torch.split(h.detach(), max(1, _ENTRIES // max(1, h.shape[1]))):
            if len(part):
                self.merge(self._of(part.to(self.mean.device, torch.float64)))

    def merge(self, other: "NeuronStatistics") -> None:
        """Takes in what another gathered on other tokens:

        mean += d n_b / n and deviations += deviations_b + d^2 n_a n_b / n, with d = mean_b - mean_a, n = n_a + n_b.
        """
        count = self.count + other.count
        if not other.count:
            return
        difference = other.mean - self.mean
        self.mean = self.mean + difference * (other.count / count)
        self.deviations = self.deviations + other.deviations + difference.square() * (self.count * other.count / count)
        self.count = count

    @property
    def variance(self) -> Tensor:
        """The mean of (h_j - mean_j)^2, divided by the count (not by one less); 0 before the first token."""
        return self.deviations / max(self.count, 1)

    @classmethod
    def _of(cls, exact: Tensor) -> Self:
        mean = exact.mean(dim=0)
        if not bool(torch.isfinite(mean).all()):
            neuron = int((~torch.isfinite(mean)).nonzero()[0])
            raise NotFinite(f"the activations of neuron {neuron} hold NaN or infinity")
        return cls(len(exact), mean, (exact - mean).square().sum(dim=0))
