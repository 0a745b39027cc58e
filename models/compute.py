"""What each row of a batch asks of its feed-forward layers, and what it spent there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Prices(NamedTuple):
    """Bytes that a lone token reads of an FFN: anyway, and for each unit of each part: of its neurons computed, which
    come first, of its neurons refined, or of whatever else a sparse FFN counts.
    """

    fixed: float
    parts: tuple[float, ...]


class OperatingPoints:
    """Where on the dial each row of a batch stands: 0 is the full tier, 1 the next one; a fraction lies between two:
    models/dial.py.

    factors: where given, the rows that are not full choose together, each with its thresholds times its factor.
    full_rows, sparse_rows: the rows at the full tier and at any other point: slices where the full ones come first,
    else indices. Which rows are full is known on the host, so that nothing waits for the device.
    """

    full_rows: slice | Tensor
    sparse_rows: slice | Tensor

    def __init__(self, operating_points: Sequence[float], device: torch.device, factors: Sequence[float] = ()) -> None:
        points = operating_points
        self._tiers = torch.tensor([int(point) for point in points], device=device)  # at each point, or before it
        parts = [point - int(point) for point in points]
        self._parts = torch.tensor(parts, dtype=torch.float32, device=device).unsqueeze(1) if any(parts) else None
        self.sparse = [row for row, point in enumerate(points) if point != 0]  # rows, in order
        self.num_rows, self.num_full = len(points), len(points) - len(self.sparse)
        full = [row for row, point in enumerate(points) if point == 0]
        if not full or full[-1] == self.num_full - 1:
            self.full_rows, self.sparse_rows = slice(0, self.num_full), slice(self.num_full, None)
        else:  # here, not where they are used: a CUDA graph may hold the forward pass, and takes no copy from the host
            self.full_rows, self.sparse_rows = (torch.tensor(rows, device=device) for rows in (full, self.sparse))
        raised = [factors[row] for row in self.sparse] if factors else []
        self._factors = torch.tensor(raised, dtype=torch.float32, device=device).unsqueeze(1) if raised else None

    @property
    def all_full(self) -> bool:
        return not self.sparse

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

    def raised(self, thresholds: Tensor) -> Tensor:
        """Thresholds [sparse rows, n], times their factors where rows choose together."""
        return thresholds if self._factors is None else thresholds * self._factors


class Spending:
    """An account of what the rows of a batch used, summed over tokens and layers.

    sparse: the rows that are not full. whole: what one token spends on the FFNs at the full tier: bytes and neurons.
    Neurons are counted in integers, so that no sum depends on its order.
    """

    def __init__(self, num_rows: int, sparse: Sequence[int], whole: tuple[int, int]) -> None:
        self._num_rows, self._sparse, self._whole = num_rows, sparse, whole
        self._by_all, self._by_full, self._fixed = [0, 0], [0, 0], 0.0  # of one row
        self._counts: dict[Prices, Tensor] = {}  # int64 [parts, sparse rows]

    def note_whole(self, num_bytes: int, neurons: int, tokens: int, full_alone: bool = False) -> None:
        """`tokens` tokens of each row, or of each at the full tier, went through a whole FFN."""
        account = self._by_full if full_alone else self._by_all
        account[0] += num_bytes * tokens
        account[1] += neurons * tokens

    def note_sparse(self, prices: Prices, counts: Tensor, tokens: int) -> None:
        """counts: units of each part that has a price, int64 [parts, sparse rows * tokens]."""
        of_rows = counts.view(len(counts), -1, tokens).sum(-1) if tokens > 1 else counts
        known = self._counts.get(prices)
        self._counts[prices] = of_rows if known is None else known + of_rows
        self._fixed += prices.fixed * tokens

    @property
    def by_row(self) -> list[tuple[float, float]]:
        """For each row: bytes of FFN weights that a lone token would have read, router included, and neurons computed;
        sums over tokens and layers.
        """
        dense = [a + b for a, b in zip(self._by_all, self._by_full, strict=True)]
        found: list[tuple[float, float]] = [(float(dense[0]), float(dense[1]))] * self._num_rows
        sums = [(prices.parts, counts.tolist()) for prices, counts in self._counts.items()]
        for i, row in enumerate(self._sparse):
            read, neurons = self._fixed + self._by_all[0], float(self._by_all[1])
            for parts, counts in sums:
                read += sum(count[i] * price for count, price in zip(counts, parts, strict=True))
                neurons += counts[0][i]
            found[row] = (read, neurons)
        return found

    def spans(self, counts: Sequence[int]) -> list[tuple[float, float]]:
        """Of rows that are one token each, `counts` of them after one another belonging together: the means of each."""
        found, rows, first = [], self.shares(1), 0
        for count in counts:
            some = rows[first : first + count]
            found.append((sum(each[0] for each in some) / count, sum(each[1] for each in some) / count))
            first += count
        return found

    def shares(self, tokens: int) -> list[tuple[float, float]]:
        """For each row the mean share of the FFN's bytes and of its neurons, over `tokens` tokens."""
        num_bytes, neurons = self._whole
        return [(read / tokens / num_bytes, active / tokens / neurons) for read, active in self.by_row]


@dataclass(frozen=True, slots=True)
class Compute:
    """What the layers of a forward pass are handed: what its rows ask, and the account that each layer writes into."""

    asked: OperatingPoints
    spent: Spending

    @classmethod
    def of(
        cls,
        operating_points: Sequence[float],
        whole: tuple[int, int],
        device: torch.device,
        factors: Sequence[float] = (),
    ) -> "Compute":
        """For rows at these operating points, with nothing spent."""
        asked = OperatingPoints(operating_points, device, factors)
        return cls(asked, Spending(asked.num_rows, asked.sparse, whole))
