"""A feed-forward network that computes, for each token, only the tiles that pass their layer's thresholds.

At the full tier, and for whoever names none, it is the dense network: permuting neurons changes no function. A tier
is a row of `thresholds`; what it leaves out may be replaced by a constant, a row of `compensation`. Between two tiers
both lie on the line between the rows. Who scores the tiles is a twin's: registry.py lists them.
"""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from ..compute import Compute, Prices
from ..spec import ExpertSpec, FFNSpec
from .dense import FFN


class SparseFFN(FFN, ABC):
    """The twin of `FFN` over the same weights. thresholds: fp32 [tiers, 2]; compensation: fp32 [tiers, hidden].

    A tile is a run of `tile` neurons, the last one shorter where they do not divide; it is computed where its score is
    above the first threshold. What the second one is for is the twin's. Row 0 is that of the full tier: no more than
    the end of a line.
    """

    thresholds: Tensor
    compensation: Tensor

    def __init__(self, hidden_size: int, spec: FFNSpec, num_tiers: int) -> None:
        super().__init__(hidden_size, spec)
        self.hidden_size, self.tile = hidden_size, spec.experts.size
        self.num_tiles = spec.experts.count(spec.width)
        self.register_buffer("thresholds", torch.empty(num_tiers, 2, dtype=torch.float32))
        self.register_buffer("compensation", torch.empty(num_tiers, hidden_size, dtype=torch.float32))

    @classmethod
    def of(cls, ffn: FFN, hidden_size: int, spec: FFNSpec, num_tiers: int) -> Self:
        """The twin of a loaded dense FFN, over the same weights; what scores and thresholds are still to be found."""
        with torch.device("meta"):
            twin = cls(hidden_size, spec, num_tiers)
        twin.gate, twin.up, twin.down, twin.packed = ffn.gate, ffn.up, ffn.down, ffn.packed
        weight = ffn.down.weight
        device = weight.device if isinstance(weight, Tensor) else None
        twin.thresholds = torch.zeros(num_tiers, 2, device=device)
        twin.compensation = torch.zeros(num_tiers, hidden_size, device=device)
        twin.begin()
        twin.prepare()
        return twin.requires_grad_(False).eval()

    @classmethod
    def check(cls, experts: ExpertSpec) -> None:
        """Raises ValueError for a spec that no twin of this kind can have."""

    @property
    @abstractmethod
    def prices(self) -> Prices:
        """What a lone token reads: anyway, the constant too, and for each unit that `sparse` counts."""

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """What the first threshold is compared with to say whether anything of a tile is read that is its own: fp32
        [.., tiles] for x [.., hidden].
        """

    @abstractmethod
    def sparse(self, x: Tensor, thresholds: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        """(y [tokens, hidden] without the constant, counts int64 [parts, tokens] of what has a price; the first are the
        neurons computed). x: [tokens, hidden]; thresholds: [tokens, 2]; together: whether tokens choose together.
        """

    def begin(self) -> None:
        """Gives what is this twin's own a value to begin with; by default nothing, until calibration finds one."""

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        if compute is None or compute.asked.all_full:
            return self.dense(x)
        if not compute.asked.num_full:
            return self._sparse_rows(x, compute)
        y, full, sparse = torch.empty_like(x), compute.asked.full_rows, compute.asked.sparse_rows
        y[full] = self.dense(x[full])
        y[sparse] = self._sparse_rows(x[sparse], compute)
        return y

    @property
    def fixed_bytes(self) -> float:
        """What a lone token reads before a neuron is computed: what scores, and the constant."""
        return self.prices.fixed

    @property
    def tile_sizes(self) -> Tensor | None:
        """Neurons of each tile, fp64 [tiles]; None where the last is as large as the others."""
        sizes = torch.full((self.num_tiles,), float(self.tile), dtype=torch.float64, device=self.thresholds.device)
        sizes[-1] -= self.num_tiles * self.tile - self.width
        return None if self.width % self.tile == 0 else sizes

    def _sparse_rows(self, x: Tensor, compute: Compute) -> Tensor:
        """x: [rows, tokens, hidden] of rows that are not full."""
        asked = compute.asked
        thresholds = asked.raised(asked.at(self.thresholds))
        if x.shape[1] > 1:
            thresholds = thresholds.repeat_interleave(x.shape[1], dim=0)  # [rows * tokens, 2]
        y, counts = self.sparse(x.flatten(0, 1), thresholds, asked.together)
        compute.spent.note_sparse(self.prices, counts, x.shape[1])
        return y.view(x.shape) + asked.at(self.compensation).unsqueeze(1).to(x.dtype)
