"""Selections to compare a router with: masks of which tiles a token uses, from scores or from chance."""

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def above(scores: Tensor, threshold: float) -> Tensor:
    """The tiles served at a threshold, bool like scores. With true output norms as scores: the perfect router."""
    return scores > threshold


def top_tiles(scores: Tensor, share: float) -> Tensor:
    """The round(share * tiles) highest of each token, bool like scores [tokens, tiles]; ties go to the lower index."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter_(-1, order[..., : num_kept(share, scores.shape[-1])], True)


def random_tiles(tokens: int, tiles: int, share: float, seed: int, first_token: int = 0) -> Tensor:
    """round(share * tiles) tiles of each token by chance, bool [tokens, tiles].

    A token's tiles depend on the seed and its number alone (first_token, first_token + 1, ...), not on the batch.
    """
    return top_tiles(chance(torch.arange(first_token, first_token + tokens), tiles, seed), share)


def chance(tokens: Tensor, tiles: int, seed: int) -> Tensor:
    """64 bits of chance, int64 [tokens, tiles], that depend on the seed and each token's number [tokens] alone."""
    numbers = tokens.unsqueeze(1) * tiles + torch.arange(tiles, device=tokens.device)
    return _scrambled(numbers + _scrambled(torch.tensor(seed)))


def num_kept(share: float, tiles: int) -> int:
    """round(share * tiles); raises ValueError where the share is not between 0 and 1."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1")
    return round(share * tiles)


def neuron_mask(tile_mask: Tensor, size: int, width: int) -> Tensor:
    """[..., tiles] -> [..., width]: every neuron of a tile does as its tile; the last tile may be short."""
    return tile_mask.repeat_interleave(size, dim=-1)[..., :width]


def _scrambled(numbers: Tensor) -> Tensor:
    """SplitMix64 (Steele, Lea and Flood 2014): 64 bits of chance for each number, in int64 that wraps."""
    z = numbers * _STEP + _STEP
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Shifts to the right, with zeros coming in."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
