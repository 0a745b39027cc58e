"""What stands in for experts that are skipped: constants, found from when each is skipped at a tier."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .controls import neuron_mask

_ENTRIES = 1 << 22


@dataclass(slots=True)
class SkippedMeans:
    """Sums over calibration tokens of the activations h that a tier skips. `size` neurons form an expert.

    sums: sum_t h_tj where j is skipped, fp64 [width]; skips: how often each expert was skipped, fp64 [experts].
    """

    size: int
    tokens: int
    sums: Tensor
    skips: Tensor

    @classmethod
    def empty(cls, width: int, size: int, device: torch.device | str = "cpu") -> Self:
        """Of no token yet."""
        experts = -(-width // size)
        return cls(size, 0, *(torch.zeros(n, dtype=torch.float64, device=device) for n in (width, experts)))

    def add(self, h: Tensor, kept: Tensor) -> None:
        """Takes in activations [tokens, width] and which experts their tokens use, bool [tokens, experts]."""
        width, experts = len(self.sums), len(self.skips)
        if h.shape[1:] != (width,) or kept.shape != (len(h), experts):
            raise ValueError(
                f"h {list(h.shape)}, kept {list(kept.shape)} are not [tokens, {width}], [tokens, {experts}]"
            )
        rows = max(1, _ENTRIES // width)
        for part, mask in zip(torch.split(h.detach(), rows), torch.split(kept, rows), strict=True):
            skipped = part.masked_fill(neuron_mask(mask, self.size, width), 0.0)
            self.sums += skipped.sum(dim=0, dtype=torch.float64)
            self.skips += (~mask).sum(dim=0)
        self.tokens += len(h)

    def merge(self, other: "SkippedMeans") -> None:
        """Takes in what another gathered on other tokens."""
        self.tokens += other.tokens
        self.sums = self.sums + other.sums
        self.skips = self.skips + other.skips

    def constant(self, down: Tensor) -> Tensor:
        """c = E[sum over skipped e of D_e h_e] = D E[h where skipped, else 0], fp32 [hidden].

        Added to the output of every token alike. Of all constants it leaves the smallest mean squared error on the
        calibration tokens, 0 being one of them. down: [hidden, width] in expert order.
        """
        return (down.double() @ (self.sums / max(self.tokens, 1)).to(down.device)).float()

    def conditional_means(self) -> Tensor:
        """mu[j] = E[h_j | j is skipped], fp32 [width]; 0 where it never is.

        y = sum over kept of D_e h_e + sum over skipped of D_e mu_e = D mu + sum over kept of D_e (h_e - mu_e): D mu
        is a constant of the tier, and the rest a subtraction for the neurons that are computed anyway, so the form
        that knows which experts were skipped reads nothing of those either (the mean given that an expert is skipped,
        where G-MoEfication, Lee et al. 2024, takes the mean of all tokens).
        """
        often = self.skips.repeat_interleave(self.size)[: len(self.sums)]
        return (self.sums / often.clamp(min=1)).float()
