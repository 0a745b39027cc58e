"""Activations in 16-bit fixed point, as two digits of int8, and how far each of them has its weights read.

q = round(x / step),  step = max|x| / 32639,  q = 256 h + l,  h and l in -128 .. 127
"""

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 32639  # 127 * 256 + 127
LEAST_STEP = 2.0**-126  # of fp32 in full precision; smaller tokens round towards zero


class Digits(NamedTuple):
    """q: whole numbers in fp32 [tokens, inputs]; step: fp32 [tokens, 1], NaN for a token that is no number (q is 0)."""

    q: Tensor
    step: Tensor

    @property
    def high(self) -> Tensor:
        """h, in fp32."""
        return torch.floor((self.q + 128) / 256)

    @property
    def low(self) -> Tensor:
        """l, in fp32."""
        return self.q - 256 * self.high


def digits_of(x: Tensor, thresholds: Tensor) -> Digits:
    """x: floating point [tokens, inputs]. A token is no number if one of its values or its threshold is none."""
    wide = x.detach().float()
    sound = _sound(wide, thresholds)
    largest = wide.abs().amax(-1, keepdim=True)
    step = (largest / torch.full_like(largest, LARGEST)).clamp(min=LEAST_STEP)  # CUDA multiplies by 1 / a plain number
    q = torch.round(torch.where(sound, wide, 0.0) / torch.where(sound, step, 1.0))
    return Digits(q, torch.where(sound, step, torch.nan))


def graded_levels(x: Tensor, worth: Tensor, thresholds: Tensor) -> Tensor:
    """int64 [tokens, inputs], how many levels of an input are read: those where |x[t, k]| worth[l] > thresholds[t].

    At a threshold of 0 or less all levels of every input but zeros. Nothing of a token that is no number.
    """
    wide, limit = x.detach().float(), thresholds.unsqueeze(-1)
    size = torch.where(_sound(wide, thresholds), wide.abs(), 0.0)
    whole = (size > 0) & (limit <= 0)
    levels = torch.zeros(size.shape, dtype=torch.int64, device=x.device)
    for each in worth:
        levels += ((limit > 0) & (size * each > limit)) | whole
    return levels


def _sound(wide: Tensor, thresholds: Tensor) -> Tensor:
    """bool [tokens, 1]: whether the token is finite and its threshold a number."""
    return wide.isfinite().all(-1, keepdim=True) & ~thresholds.isnan().unsqueeze(-1)
