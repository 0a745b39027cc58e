"""Experts that are made of smaller experts, so that one order of neurons serves every size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ...compress.moefy.cluster import Split

Group = Callable[[Tensor, int], Split]  # neurons [n], size -> their split, which numbers them from 0 to n - 1


@dataclass(frozen=True, slots=True)
class NestedSplit:
    """One order of neurons that is a split at each of `sizes`, the largest first: parts of parts lie side by side.

    inertias: at each size, the sum of what the group function reports.
    """

    order: Tensor
    sizes: tuple[int, ...]
    inertias: tuple[float, ...]

    def at(self, size: int) -> Split:
        """The split at one of the sizes; neurons ascend within the smallest experts only."""
        if size not in self.sizes:
            raise ValueError(f"no experts of {size} here; there are experts of {', '.join(map(str, self.sizes))}")
        return Split(self.order, size, self.inertias[self.sizes.index(size)])


def nested_split(width: int, sizes: Sequence[int], group: Group) -> NestedSplit:
    """Groups all neurons into the largest experts, and each of those into the next smaller, with the same `group`.

    For example lambda neurons, size: balanced_kmeans(rows[neurons], size, seed), or
    lambda neurons, size: pattern_split(found.of(neurons), size).split. Raises ValueError where a size does not
    divide the one before it; only the last expert of each size may be short.
    """
    if not sizes or any(large % small or large == small for large, small in pairwise(sizes)):
        raise ValueError(f"sizes are {list(sizes)}; each must divide the one before it, as in [128, 64, 32]")
    parts, inertias = [torch.arange(width)], []
    for size in sizes:
        splits = [group(part, size) for part in parts]
        inertias.append(sum(split.inertia for split in splits))
        found = zip(parts, splits, strict=True)
        parts = [expert for part, split in found for expert in torch.split(part[split.order], size)]
    return NestedSplit(torch.cat(parts), tuple(sizes), tuple(inertias))
