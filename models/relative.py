"""Buckets of distances between tokens, each with a learned number a head (T5, Raffel et al. 2020; MPNet)."""

import math

import torch
from torch import Tensor

_FARTHEST = 128  # tokens; all that are farther share the last bucket of their side


def distance_buckets(tokens: int, buckets: int) -> Tensor:
    """The bucket of what each token sees: int64 [tokens, tokens], [i, j] of token j seen from token i.

    Half of the buckets are for what stands behind. Of each half, half are of one distance, the others grow with it.
    """
    places, half = torch.arange(tokens), buckets // 2
    ahead = places[None, :] - places[:, None]
    distance, exact = ahead.abs(), half // 2
    grown = torch.log(distance.clamp(min=1).float() / exact) / math.log(_FARTHEST / exact) * (half - exact)
    far = (exact + grown.long()).clamp(max=half - 1)
    return torch.where(distance < exact, distance, far) + half * (ahead > 0)
