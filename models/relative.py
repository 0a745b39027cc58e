"""Buckets of distances between tokens, each with a learned number a head (T5, Raffel et al. 2020; MPNet)."""

import math

import torch
from torch import Tensor


def distance_buckets(tokens: int, buckets: int, farthest: int = 128) -> Tensor:
    """The bucket of what each token sees: int64 [tokens, tokens], [i, j] of token j seen from token i.

    Half of the buckets are for what stands behind; tokens that are `farthest` or more away share the last of each half.
    """
    places = torch.arange(tokens)
    return ahead_buckets(places[None, :] - places[:, None], buckets, farthest)


def ahead_buckets(ahead: Tensor, buckets: int, farthest: int = 128) -> Tensor:
    """The bucket of a token that stands so far ahead, or behind where that is below 0: int64, like `ahead`."""
    half = buckets // 2
    return _graded(ahead.abs(), half, farthest) + half * (ahead > 0)


def past_buckets(tokens: int, buckets: int, farthest: int = 128) -> Tensor:
    """The bucket of each distance back, int64 [tokens], where nothing behind a token is seen and all are for what
    stands before it.
    """
    return _graded(torch.arange(tokens), buckets, farthest)


def _graded(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """Half of the buckets are of one distance, the others grow with it."""
    exact = buckets // 2
    grown = torch.log(distance.clamp(min=1).float() / exact) / math.log(farthest / exact) * (buckets - exact)
    far = (exact + grown.long()).clamp(max=buckets - 1)
    return torch.where(distance < exact, distance, far)
