"""Which tokens an expert of a mixture has, in blocks of a few: what every kernel of a mixture goes by."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..jit import cdiv

NOBODY = 0x7F800000  # bits of infinity, as the largest value of a pair that is not taken: it has digits of 0


@dataclass(frozen=True)
class Assigned:
    """A pair is a token and an expert that it takes: number token * most + i, the i-th of the token's in the order of
    experts. A block is `rows` pairs of one expert.

    parts: fp32 [tokens, most], what each counts, 0 of those that are not taken. pairs: int32 [blocks * rows], by
    expert, -1 where its last block has no more; experts: int32 [blocks], whose block it is; count: int32 [1], of
    blocks, which is known on the device alone.
    """

    parts: Tensor
    pairs: Tensor
    experts: Tensor
    count: Tensor
    rows: int

    @property
    def most(self) -> int:
        """Experts of a token."""
        return self.parts.shape[1]

    @classmethod
    def room(cls, device: torch.device, tokens: int, most: int, rows: int) -> "Assigned":
        """For kernels to fill: a block of its own for every pair, at the most."""
        pairs = tokens * most

        def integers(count: int) -> Tensor:
            return torch.empty(count, dtype=torch.int32, device=device)

        parts = torch.empty(tokens, most, device=device)
        return cls(parts, integers(pairs * rows), integers(pairs), integers(1), rows)


def most_blocks(pairs: int, experts: int, rows: int) -> int:
    """The last block of each expert may be short."""
    return pairs // rows + min(pairs, experts)


def assign(places: Tensor, parts: Tensor, experts: int, rows: int) -> Assigned:
    """Sorts pairs by expert, in a few operations that wait for nothing.

    places: int64 [tokens, most], rising in each row; parts: fp32, the same shape.
    """
    device, pairs = places.device, places.numel()
    of_pair, order = torch.sort(places.masked_fill(parts == 0, experts).flatten(), stable=True)
    begins = torch.searchsorted(of_pair, torch.arange(experts + 1, device=device))
    blocks = (begins[1:] - begins[:-1] + rows - 1) // rows
    ends = blocks.cumsum(0)
    count = most_blocks(pairs, experts, rows)
    of_block = torch.searchsorted(ends, torch.arange(count, device=device), right=True)
    first = torch.cat([ends - blocks, ends.new_full((1,), count)])  # pairs of nobody go behind all blocks
    place = first[of_pair] * rows + torch.arange(pairs, device=device) - begins[of_pair]
    held = torch.full((cdiv(count * rows + pairs, 4) * 4,), -1, dtype=torch.int32, device=device)
    held.scatter_(0, place, order.to(torch.int32))
    return Assigned(parts, held[: count * rows], of_block.to(torch.int32), ends[-1:].to(torch.int32), rows)
