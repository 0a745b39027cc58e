"""What each row of a batch asks of the layers, and what it spent there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Prices(NamedTuple):
    """Bytes that a lone token reads of a part of the model: anyway, and for each unit of each part: of an FFN's neurons
    computed, which come first, of its neurons refined, of the bits of a graded input, or of whatever else is counted.
    """

    fixed: float
    parts: tuple[float, ...]


class OperatingPoints:
    """Where on the dial each row of a batch stands: 0 is the full tier, 1 the next one; a fraction lies between two:
    models/dial.py.

    tiers: of each row that at its point, or before it, int64 [rows]; parts: of the way to the next one, fp32 [rows, 1],
    or None where each is at a tier. factors: where given, the rows that are not full choose together, each with its
    thresholds times its factor, fp32 [sparse rows, 1].
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
        self.factors = torch.tensor(raised, dtype=torch.float32, device=device).unsqueeze(1) if raised else None

    @classmethod
    def of_form(cls, tiers: Tensor, parts: Tensor, num_full: int) -> "OperatingPoints":
        """Points of a form of fixed size, whose numbers lie on the device: tiers int64 [rows], parts fp32 [rows, 1].

        The first `num_full` rows are at the full tier, whatever their numbers say.
        """
        self = cls.__new__(cls)
        self._set(tiers, parts, list(range(num_full, len(tiers))))
        self.factors = None
        return self

    def _set(self, tiers: Tensor, parts: Tensor | None, sparse: list[int]) -> None:
        self.tiers, self.parts, self.sparse = tiers, parts, sparse
        self.num_rows, self.num_full = len(tiers), len(tiers) - len(sparse)
        self.full_rows, self.sparse_rows = slice(0, self.num_full), slice(self.num_full, None)

    @property
    def all_full(self) -> bool:
        return not self.sparse

    def at(self, table: Tensor) -> Tensor:
        """The values of a table [tiers, n] for the rows that are not full: [sparse rows, n]."""
        tiers = self.tiers[self.sparse_rows] if self.num_full else self.tiers
        if self.parts is None:
            return table[tiers]
        parts = self.parts[self.sparse_rows] if self.num_full else self.parts
        return torch.lerp(table[tiers], table[(tiers + 1).clamp(max=len(table) - 1)], parts)

    def of_all(self, table: Tensor) -> Tensor:
        """The values of a table [tiers] for every row, full ones too: [rows]."""
        found = table[self.tiers]
        if self.parts is not None:
            found = torch.lerp(found, table[(self.tiers + 1).clamp(max=len(table) - 1)], self.parts[:, 0])
        if self.num_full and isinstance(self.full_rows, slice):  # of which a form's numbers say nothing
            found = torch.cat([table[:1].expand(self.num_full), found[self.num_full :]])
        return found

    @property
    def back(self) -> Tensor | slice:
        """Where each row stands when the full ones come first."""
        if isinstance(self.full_rows, slice) or isinstance(self.sparse_rows, slice):
            return slice(None)
        return torch.cat([self.full_rows, self.sparse_rows]).argsort()

    @property
    def device(self) -> torch.device:
        return self.tiers.device

    @property
    def together(self) -> bool:
        """Whether rows choose together."""
        return self.factors is not None

    def raised(self, thresholds: Tensor) -> Tensor:
        """Thresholds [sparse rows, n], times their factors where rows choose together."""
        return thresholds if self.factors is None else thresholds * self.factors


class Whole(NamedTuple):
    """What a token at the full tier reads and computes: bytes of the weights that tiers govern, neurons of all FFNs.

    fixed_bytes, fixed_neurons: the part of them that no tier leaves out.
    """

    bytes: float
    neurons: int
    fixed_bytes: float = 0.0
    fixed_neurons: int = 0


class Spending:
    """An account of what the rows of a batch used, summed over tokens and layers.

    Full rows are charged `whole` a token. Bits and neurons are counted in integers, so that no sum depends on an order.
    """

    def __init__(self, asked: OperatingPoints, whole: Whole) -> None:
        self._asked, self._whole, self._fixed = asked, whole, 0.0  # fixed: of one row
        self._counts: dict[Prices, list[Tensor]] = {}  # int64 [parts, sparse rows] each
        self._bits: dict[float, list[Tensor]] = {}  # int64 [rows * tokens] each, by the bytes that a bit reads
        self._neurons: list[Tensor] = []  # int64 [rows * tokens] each

    def note_sparse(self, prices: Prices, counts: Tensor, tokens: int) -> None:
        """counts: units of each part that has a price, int64 [parts, sparse rows * tokens]; the first are neurons."""
        of_rows = counts.view(len(counts), -1, tokens).sum(-1) if tokens > 1 else counts
        self._counts.setdefault(prices, []).append(of_rows)
        self._fixed += prices.fixed * tokens

    def note_graded(
        self, price: Prices, bits: Tensor, neurons: Tensor | None, tokens: int, rows: Tensor | None = None
    ) -> None:
        """bits, and neurons where inputs are neurons: of every row, full ones too, int64 [rows * tokens]; or bits of
        one token of each of `rows`.
        """
        if rows is not None:
            bits = bits.new_zeros(self._asked.num_rows).index_copy(0, rows, bits)
        self._bits.setdefault(price.parts[0], []).append(bits)
        self._fixed += price.fixed * tokens
        if neurons is not None:
            self._neurons.append(neurons)

    def columns(self, tokens: int, device: torch.device) -> Tensor:
        """For each row the mean share of all bytes and of all neurons, over `tokens` tokens: fp64 [rows, 2].

        Nothing is brought from or to the host.
        """
        whole, num_full = self._whole, self._asked.num_full
        read, neurons = self._sums(tokens, device)
        found = torch.stack([read / (whole.bytes * tokens), neurons / (whole.neurons * tokens)], 1)
        if not num_full:
            return found
        ones = torch.ones(num_full, 2, dtype=torch.float64, device=device)
        return torch.cat([ones, found])[self._asked.back]

    def _sums(self, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Bytes and neurons of each row that is not full, fp64 [sparse rows]."""
        size = len(self._asked.sparse)
        read = torch.full((size,), self._whole.fixed_bytes * tokens + self._fixed, dtype=torch.float64, device=device)
        neurons = torch.full((size,), float(self._whole.fixed_neurons * tokens), dtype=torch.float64, device=device)
        for prices, noted in self._counts.items():
            counts = torch.stack(noted).sum(0)
            read += sum(count.double() * price for count, price in zip(counts, prices.parts, strict=True))
            neurons += counts[0]
        for price, noted in self._bits.items():
            read += self._of_sparse(noted, tokens) * price
        if self._neurons:
            neurons += self._of_sparse(self._neurons, tokens)
        return read, neurons

    def _of_sparse(self, noted: Sequence[Tensor], tokens: int) -> Tensor:
        of_rows = torch.stack(list(noted)).sum(0).view(-1, tokens).sum(1)
        return of_rows[self._asked.sparse_rows].double()

    def shares(self, tokens: int) -> list[tuple[float, float]]:
        """`columns` on the host."""
        rows = self.columns(tokens, self._asked.device).tolist()
        return [(read, neurons) for read, neurons in rows]


@dataclass(frozen=True, slots=True)
class Compute:
    """What the layers of a forward pass are handed: what its rows ask, and the account that each layer writes into.

    thresholds: fp32 [rows] for linears that grade their inputs, 0 for full rows; None in a model without such.
    """

    asked: OperatingPoints
    spent: Spending
    thresholds: Tensor | None = None

    @classmethod
    def of(cls, asked: OperatingPoints, whole: Whole, table: Tensor | None = None) -> "Compute":
        """An account for rows that ask so, with nothing spent. table: fp32 [tiers], the thresholds of each."""
        return cls(asked, Spending(asked, whole), None if table is None else asked.of_all(table))
