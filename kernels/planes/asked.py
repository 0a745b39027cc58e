"""What rows ask of an FFN that chooses neurons, in Triton: rows of tables, or what lies between two of them."""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from dataclasses import dataclass

from torch import Tensor

from ..jit import jit, tl


@dataclass(frozen=True)
class Asked:
    """thresholds: fp32 [tiers, 2]; constants: fp32 [tiers, hidden], added to what the FFN gives. A row stands at
    tiers: int32 [rows], and shares: fp32 [rows], of the way to the next one.
    """

    thresholds: Tensor
    constants: Tensor
    tiers: Tensor
    shares: Tensor

    def some(self, rows: slice) -> "Asked":
        """The same for some of the rows."""
        return Asked(self.thresholds, self.constants, self.tiers[rows], self.shares[rows])


@jit
def between(table, tier, share, last, stride, column, inside):
    """table[tier, column] at that share of the way to the next tier, as torch.lerp has it. inside: of both."""
    here = tl.load(table + tier * stride + column, mask=inside, other=0.0)
    after = tl.load(table + tl.minimum(tier + 1, last) * stride + column, mask=inside, other=0.0)
    begin, end = tl.where(share == 0, 0.0, here), tl.where(share == 0, 0.0, after)  # to infinity there is no line
    away = end - begin
    found = tl.where(share < 0.5, begin + share * away, end - away * (1.0 - share))
    return tl.where(share == 0, here, found)
