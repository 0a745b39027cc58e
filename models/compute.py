"""What each row of a batch may spend on its feed-forward layers, and what it did spend."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Prices(NamedTuple):
    """Bytes that a lone token reads of an FFN: anyway, for each neuron it computes, for each it refines."""

    fixed: float
    active: float
    fine: float


class Compute:
    """A tier for each row of a batch, by its place (0 is full), and what the rows used.

    A place is the index of a tier; a fraction lies between two: models/dial.py. `whole` is what one token spends on
    the FFNs at the full tier: bytes and neurons. factors: where given, the rows that are not full choose together, each
    with its thresholds times its factor. Which rows are full is known on the host, so that nothing waits for
    the device, and neurons are counted in integers, so that no sum depends on its order.
    """

    def __init__(
        self, tiers: Sequence[float], whole: tuple[int, int], device: torch.device, factors: Sequence[float] = ()
    ) -> None:
        self._tiers = torch.tensor([int(tier) for tier in tiers], device=device)
        parts = [tier - int(tier) for tier in tiers]
        self._parts = torch.tensor(parts, dtype=torch.float32, device=device).unsqueeze(1) if any(parts) else None
        self._sparse = [row for row, tier in enumerate(tiers) if tier != 0]
        self.num_full = len(tiers) - len(self._sparse)
        raised = [factors[row] for row in self._sparse] if factors else []
        self._factors = torch.tensor(raised, dtype=torch.float32, device=device).unsqueeze(1) if raised else None
        self.whole = whole
        self._by_all, self._by_full, self._fixed = [0, 0], [0, 0], 0.0  # of one row
        self._counts: dict[Prices, Tensor] = {}  # int64 [2, sparse rows]: neurons computed, neurons refined

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

    @property
    def together(self) -> bool:
        """Whether rows choose together."""
        return self._factors is not None

    def raised(self, limits: Tensor) -> Tensor:
        """Thresholds [sparse rows, n] of rows that choose together."""
        return limits if self._factors is None else limits * self._factors

    def note_whole(self, num_bytes: int, neurons: int, tokens: int, full_alone: bool = False) -> None:
        """`tokens` tokens of each row, or of each at the full tier, went through a whole FFN."""
        account = self._by_full if full_alone else self._by_all
        account[0] += num_bytes * tokens
        account[1] += neurons * tokens

    def note_sparse(self, prices: Prices, counts: Tensor, tokens: int) -> None:
        """counts: neurons computed and neurons refined, int64 [2, sparse rows * tokens]."""
        of_rows = counts.view(2, -1, tokens).sum(-1) if tokens > 1 else counts
        known = self._counts.get(prices)
        self._counts[prices] = of_rows if known is None else known + of_rows
        self._fixed += prices.fixed * tokens

    @property
    def spent(self) -> list[tuple[float, float]]:
        """For each row: bytes of FFN weights that a lone token would have read, router included, and neurons computed;
        sums over tokens and layers.
        """
        dense = [a + b for a, b in zip(self._by_all, self._by_full, strict=True)]
        found: list[tuple[float, float]] = [(float(dense[0]), float(dense[1]))] * len(self._tiers)
        sums = [(prices, counts.tolist()) for prices, counts in self._counts.items()]
        for i, row in enumerate(self._sparse):
            read, neurons = self._fixed + self._by_all[0], float(self._by_all[1])
            for prices, (active, fine) in sums:
                read += active[i] * prices.active + fine[i] * prices.fine
                neurons += active[i]
            found[row] = (read, neurons)
        return found

    def shares(self, tokens: int) -> list[tuple[float, float]]:
        """For each row the mean share of the FFN's bytes and of its neurons, over `tokens` tokens."""
        num_bytes, neurons = self.whole
        return [(read / tokens / num_bytes, active / tokens / neurons) for read, active in self.spent]
