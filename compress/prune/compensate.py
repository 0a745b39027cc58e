"""A bias that stands in for the neurons that were removed."""

import torch
from torch import Tensor


def compensation_bias(down: Tensor, mean: Tensor, kept: Tensor, bias: Tensor | None = None) -> Tensor:
    """bias + D[:, removed] @ E[h_removed], fp32 [hidden]: the output's mean over the calibration tokens stays.

    down: [hidden, width] before anything was removed, mean: [width] of its inputs h, kept: indices, bias: the one
    that the layer has. Of all constants it leaves the smallest mean squared error, and none at all where the removed
    h are constant. FLAP: An et al. 2024.
    """
    removed = removed_neurons(down.shape[1], kept)
    added = down[:, removed].double() @ mean[removed].double()
    return (added if bias is None else added + bias.double()).float()


def removed_neurons(width: int, kept: Tensor) -> Tensor:
    """The indices of 0 .. width - 1 that are not in `kept`, ascending."""
    is_removed = torch.ones(width, dtype=torch.bool, device=kept.device)
    is_removed[kept] = False
    return is_removed.nonzero().flatten()
