"""What each row of a batch may spend on its feed-forward layers, and what it did spend."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Compute:
    """A tier for each row of a batch, by its index (0 is full), and running sums of what the rows used.

    `spent` is fp64 [rows, 2]: bytes of FFN weights that a lone token would have read, router included, and neurons
    that were computed, summed over tokens and layers; `whole` is what one token spends on them at the full tier.
    Which rows are full is known on the host, so that nothing waits for the device.
    """

    def __init__(self, tiers: Sequence[int], whole: tuple[int, int], device: torch.device) -> None:
        self.tiers = torch.tensor(list(tiers), device=device)
        self.num_full = sum(tier == 0 for tier in tiers)
        self.spent = torch.zeros(len(tiers), 2, dtype=torch.float64, device=device)
        self.whole = whole

    @property
    def all_full(self) -> bool:
        return self.num_full == len(self.tiers)

    @cached_property
    def full_rows(self) -> Tensor:
        """Indices of the rows at the full tier."""
        return torch.nonzero(self.tiers == 0).squeeze(1)

    @cached_property
    def sparse_rows(self) -> Tensor:
        """Indices of the rows at any other tier."""
        return torch.nonzero(self.tiers).squeeze(1)

    def note_whole(self, num_bytes: int, neurons: int, tokens: int, rows: Tensor | None = None) -> None:
        """`tokens` tokens of each of these rows (None: of all) went through a whole FFN."""
        used = torch.tensor([num_bytes * tokens, neurons * tokens], dtype=torch.float64, device=self.spent.device)
        if rows is None:
            self.spent += used
        else:
            self.spent[rows] += used

    def note_sparse(self, used: Tensor) -> None:
        """Bytes and neurons, fp64 [sparse rows, 2], of the rows that are not full."""
        if self.num_full:
            self.spent[self.sparse_rows] += used
        else:
            self.spent += used

    def shares(self, tokens: int) -> list[tuple[float, float]]:
        """For each row the mean share of the FFN's bytes and of its neurons, over `tokens` tokens."""
        num_bytes, neurons = self.whole
        return [(used / num_bytes, active / neurons) for used, active in (self.spent / tokens).tolist()]
