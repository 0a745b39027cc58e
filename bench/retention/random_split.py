"""Neurons grouped by chance: what any other split must beat."""

import torch
from torch import Tensor

from ...compress.moefy.cluster import Split, split_of


def random_split(vectors: Tensor, size: int, seed: int = 0) -> Split:
    """Experts of `size` of the neurons with vectors [neurons, inputs], drawn by chance; its inertia is of these."""
    labels = torch.empty(len(vectors), dtype=torch.int64)
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    labels[order] = torch.arange(len(vectors)) // size
    return split_of(vectors, labels, size)
