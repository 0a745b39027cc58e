"""What the launches of a decode step read and write: made once, for the most rows; a step of fewer uses the first."""

import torch
from torch import Tensor

from ..instructions import Counted, View
from ..jit import cdiv
from ..paged_attention import BLOCK_TOKENS
from .written import Linear


class Buffers:
    """tables: int32 [rows, blocks], positions: int32 [rows], thresholds: fp32 [rows], tiers: int32 [rows], shares:
    fp32 [rows], of the way to the next tier: what rows are and ask. turn: cosines and
    sines fp32 [longest, values of all tables], or None; longest: positions that a row may have.
    """

    def __init__(self, rows: int, longest: int, device: torch.device, turn: tuple[Tensor, Tensor] | None) -> None:
        self.rows, self.longest, self.device, self.turn = rows, longest, device, turn
        self.tables = torch.zeros(rows, cdiv(longest, BLOCK_TOKENS), dtype=torch.int32, device=device)
        self.positions = torch.zeros(rows, dtype=torch.int32, device=device)
        self.thresholds = torch.zeros(rows, device=device)
        self.tiers = torch.zeros(rows, dtype=torch.int32, device=device)
        self.shares = torch.zeros(rows, device=device)
        self.full = rows  # of the rows of a step, those at the full tier
        self._units: list[tuple[int, bool, Tensor]] = []
        self._places: list[Tensor] = []
        self._counts: list[tuple[Linear, Tensor]] = []

    def place(self, width: int) -> View:
        """A new table of so many columns."""
        self._places.append(torch.empty(self.rows, width, device=self.device))
        return View(len(self._places) - 1, width, width)

    def widened(self, view: View, width: int) -> View:
        """So many columns of the table of a view, which has room for them from now on; what it held is lost."""
        if width > self._places[view.place].shape[1]:
            self._places[view.place] = torch.empty(self.rows, width, device=self.device)
        return View(view.place, width, width)

    def at(self, view: View) -> Tensor:
        """The columns of a view, of all rows."""
        return self._places[view.place][:, view.offset : view.offset + view.width]

    def room(self, parts: int) -> Tensor:
        """fp32 [rows, parts], for a launch to tell what it wrote."""
        return torch.empty(self.rows, parts, device=self.device)

    def counts_of(self, linear: Linear) -> Tensor:
        """Where a graded linear counts: int64 [2 * rows]."""
        self._counts.append((linear, torch.zeros(2 * self.rows, dtype=torch.int64, device=self.device)))
        return self._counts[-1][1]

    def units_of(self, row: int, every: bool) -> Tensor:
        """Where an FFN that chooses neurons counts for a row of `Counted.units`, every row of a step or those that are
        not full: int64 [2 * rows].
        """
        self._units.append((row, every, torch.zeros(2 * self.rows, dtype=torch.int64, device=self.device)))
        return self._units[-1][2]

    def counted(self, rows: int, full: int, prices: int, units: int) -> Counted:
        """What was read in the step before, of which the first `full` rows were at the full tier."""
        bits = torch.zeros(prices, rows, dtype=torch.int64, device=self.device)
        neurons = torch.zeros(rows, dtype=torch.int64, device=self.device)
        for linear, counts in self._counts:
            read, of_linear = counts[: 2 * rows].view(2, rows)
            bits[linear.price] += of_linear
            if linear.neurons:
                neurons += read
        chosen = torch.zeros(units, 2, rows, dtype=torch.int64, device=self.device)
        for row, every, counts in self._units:
            known = rows if every else rows - full
            chosen[row, :, full:] += counts[: 2 * known].view(2, known)[:, known - rows + full :]
        return Counted(bits, neurons, chosen)
