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
        tiers = torch.tensor([int(point) for point in points], device=device)  # at each point, or before it
        parts = [point - int(point) for point in points]
        between = torch.tensor(parts, dtype=torch.float32, device=device).unsqueeze(1) if any(parts) else None
        self._set(tiers, between, [row for row, point in enumerate(points) if point != 0])
        full = [row for row, point in enumerate(points) if point == 0]
        if full and full[-1] != self.num_full - 1:
            # here, not where they are used: a CUDA graph may hold the forward pass, and takes no copy from the host
            self.full_rows, self.sparse_rows = (torch.tensor(rows, device=device) for rows in (full, self.sparse))
        raised = [factors[row] for row in self.sparse] if factors else []
        self._factors = torch.tensor(raised, dtype=torch.float32, device=device).unsqueeze(1) if raised else None

    @classmethod
    def of_form(cls, tiers: Tensor, parts: Tensor, num_full: int) -> "OperatingPoints":
        """Points of a form of fixed size, whose numbers lie on the device: tiers int64 [rows], parts fp32 [rows, 1].

        The first `num_full` rows are at the full tier, whatever their numbers say.
        """
        self = cls.__new__(cls)
        self._set(tiers, parts, list(range(num_full, len(tiers))))
        self._factors = None
        return self

    def _set(self, tiers: Tensor, parts: Tensor | None, sparse: list[int]) -> None:
        self._tiers, self._parts, self.sparse = tiers, parts, sparse
        self.num_rows, self.num_full = len(tiers), len(tiers) - len(sparse)
        self.full_rows, self.sparse_rows = slice(0, self.num_full), slice(self.num_full, None)

    @property
    def all_full(self) -> bool:
        return not self.sparse

    def at(self, table: Tensor) -> Tensor:
        """The values of a table [tiers, n] for the rows that are not full: [sparse rows, n]."""
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

    def columns(self, tokens: int, device: torch.device) -> Tensor:
        """For each row the mean share of the FFN's bytes and of its neurons, over `tokens` tokens: fp64 [rows, 2].

        Nothing is brought from or to the host.
        """
        read, neurons = self._sums(device)
        return torch.stack([read / (self._whole[0] * tokens), neurons / (self._whole[1] * tokens)], 1)

    def _sums(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Bytes and neurons of each row, fp64 [rows]."""
        num_full = self._num_rows - len(self._sparse)
        found = []
        for part in range(2):
            every, sums = self._by_all[part], torch.zeros(len(self._sparse), dtype=torch.float64, device=device)
            for prices, counts in self._counts.items():
                if part == 0:
                    sums += sum(count.double() * price for count, price in zip(counts, prices.parts, strict=True))
                else:
                    sums += counts[0]
            sums += every + (self._fixed if part == 0 else 0.0)
            full = torch.full((num_full,), float(every + self._by_full[part]), dtype=torch.float64, device=device)
            found.append(torch.cat([full, sums])[self._order(device)])
        return found[0], found[1]

    def _order(self, device: torch.device) -> Tensor | slice:
        """Where each row stands when the full ones come first."""
        if not self._sparse or self._sparse[0] == self._num_rows - len(self._sparse):
            return slice(None)
        full = [row for row in range(self._num_rows) if row not in set(self._sparse)]
        return torch.tensor([*full, *self._sparse], device=device).argsort()

    @property
    def by_row(self) -> list[tuple[float, float]]:
        """The bytes of FFN weights, router included, that each row would have read alone, and the neurons computed for
        it: sums over tokens and layers.
        """
        device = next(iter(self._counts.values())).device if self._counts else torch.device("cpu")
        read, neurons = self._sums(device)
        return list(zip(read.tolist(), neurons.tolist(), strict=True))

    def shares(self, tokens: int) -> list[tuple[float, float]]:
        """The mean shares of the FFN's bytes and of its neurons that each row used, over `tokens` tokens."""
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
        """An account for rows at these operating points, with nothing spent."""
        asked = OperatingPoints(operating_points, device, factors)
        return cls(asked, Spending(asked.num_rows, asked.sparse, whole))
