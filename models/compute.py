"""What each row of a batch may spend on its feed-forward layers, and what it did spend."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Compute:
    """A tier for each row of a batch, by its place (0 is full), and running sums of what the rows used.

    A place is the index of a tier; a fraction lies between two: models/dial.py.

    `spent` is fp64 [rows, 2]: bytes of FFN weights that a lone token would have read, router included, and neurons
    that were computed, summed over tokens and layers; `whole` is what one token spends on them at the full tier.
    Which rows are full is known on the host, so that nothing waits for the device.
    """

    def __init__(self, tiers: Sequence[float], whole: tuple[int, int], device: torch.device) -> None:
        self._tiers = torch.tensor([int(tier) for tier in tiers], device=device)
        parts = [tier - int(tier) for tier in tiers]
        self._parts = torch.tensor(parts, dtype=torch.float32, device=device).unsqueeze(1) if any(parts) else None
        self._sparse = [row for row, tier in enumerate(tiers) if tier != 0]
        self.num_full = len(tiers) - len(self._sparse)
        self.spent = torch.zeros(len(tiers), 2, dtype=torch.float64, device=device)
        self.whole = whole

    @property
    def all_full(self) -> bool:
        return not self._sparse

    @cached_property
    def full_rows(self) -> Tensor:
        """Indices of the rows at the full tier."""
        sparse = set(self._sparse)
        return torch.tensor([row for row in range(len(self._tiers)) if row not in sparse], device=self._tiers.device)

    @cached_property
    def sparse_rows(self) -> Tensor:
        """Indices of the rows at any other tier."""
        return torch.tensor(self._sparse, device=self._tiers.device)

    def at(self, table: Tensor) -> Tensor:
        """Of a table [tiers, n], its values for the rows that are not full: [sparse rows, n]."""
        tiers = self._tiers[self.sparse_rows] if self.num_full else self._tiers
        if self._parts is None:
            return table[tiers]
        parts = self._parts[self.sparse_rows] if self.num_full else self._parts
        return torch.lerp(table[tiers], table[(tiers + 1).clamp(max=len(table) - 1)], parts)

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
