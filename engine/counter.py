"""Random numbers from a counter: a number belongs to a seed, an answer and a position, whatever is drawn beside it.

Philox 4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four random words of 32 bits. counter: four words, key: two, all int64 and of shapes that go together.

    A product of two words may pass 2**63 and wrap; its bits, which is all that is taken of it, stay right.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> 32 & _MASK) ^ c1 ^ k0, second & _MASK
        c2, c3 = (first >> 32 & _MASK) ^ c3 ^ k1, first & _MASK
        k0, k1 = k0 + _WEYL[0] & _MASK, k1 + _WEYL[1] & _MASK
    return c0, c1, c2, c3


def uniforms(seed: int, choice: int, positions: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, of 53 bits each, for positions (int64) of one answer to a request."""
    zero = torch.zeros_like(positions)
    key = torch.tensor([seed & _MASK, seed >> 32 & _MASK], device=positions.device).unbind()
    high, low, _, _ = philox((positions & _MASK, positions >> 32, zero + choice, zero), key)
    return ((high >> 5) * (1 << 26) + (low >> 6)).double() * 2.0**-53
