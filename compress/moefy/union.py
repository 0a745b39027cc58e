"""How many tiles several tokens touch together: what a batch reads, against what each of its tokens reads alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

BATCHES = (1, 2, 4, 8, 16, 32)
CONSECUTIVE = (1, 2, 4, 8, 16, 32, 64)
_GROUPS = 256  # batches drawn of each size, at most


def expected_unions(active: Tensor, seed: int = 0, batches: Sequence[int] = BATCHES) -> dict[int, float]:
    """The mean share of tiles that a batch of so many tokens, drawn by chance, touches. active: bool [tokens, n]."""
    order = torch.randperm(len(active), generator=torch.Generator().manual_seed(seed))
    found = {}
    for size in batches:
        groups = min(_GROUPS, len(active) // size)
        if groups:
            drawn = active[order[: groups * size]].view(groups, size, -1)
            found[size] = float(drawn.any(dim=1).float().mean())
    return found


def consecutive_unions(active: Tensor, sizes: Sequence[int] = CONSECUTIVE) -> dict[int, tuple[float, int]]:
    """(sum over groups of the share of tiles touched, number of groups), by the tokens of a group.

    A group is so many tokens in a row of one passage, none in two groups. active: bool [passages, tokens, tiles].
    Sizes longer than a passage are left out; sums of several calls add up.
    """
    passages, tokens, tiles = active.shape
    found = {}
    for size in sizes:
        groups = tokens // size
        if groups:
            together = active[:, : groups * size].reshape(passages * groups, size, tiles).any(dim=1)
            found[size] = (float(together.sum()) / tiles, passages * groups)
    return found
