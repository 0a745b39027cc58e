"""Rotary position embedding (RoFormer, Su et al. 2021), with the scalings of frequencies that make long contexts."""

import math

import torch
from torch import Tensor

from .spec import RopeSpec, TransformerSpec


def check_rope(spec: TransformerSpec, head_size: int) -> None:
    """Raises ValueError where not as many values turn as a head of this size has pairs of."""
    for rope in (spec.rope, spec.local_rope):
        if rope is not None and (rope.rotated % 2 or rope.rotated > head_size):
            raise ValueError(f"{rope.rotated} values of a head turn, which has {head_size}")


def inverse_frequencies(rope: RopeSpec, head_size: int) -> Tensor:
    """theta^(-2i/size) for i in [0, size/2), size the values that turn, scaled. fp32 [size/2]."""
    size = rope.rotated or head_size
    exponent = torch.arange(0, size, 2, dtype=torch.int64).float() / size
    plain = 1.0 / (rope.theta**exponent)
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "yarn":
        return _yarn_scaled(plain, rope)
    return _llama3_scaled(plain, rope) if rope.scaling == "llama3" else plain


def _llama3_scaled(plain: Tensor, rope: RopeSpec) -> Tensor:
    """Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1)."""
    wavelength = 2 * math.pi / plain
    long_wave = rope.original_context / rope.low_frequency_factor
    short_wave = rope.original_context / rope.high_frequency_factor
    width = rope.high_frequency_factor - rope.low_frequency_factor
    blend = (rope.original_context / wavelength - rope.low_frequency_factor) / width
    mixed = (1 - blend) * plain / rope.factor + blend * plain
    scaled = torch.where(wavelength > long_wave, plain / rope.factor, plain)
    return torch.where((wavelength <= long_wave) & (wavelength >= short_wave), mixed, scaled)


def _yarn_scaled(plain: Tensor, rope: RopeSpec) -> Tensor:
    """YaRN (Peng et al. 2023): pairs that turn often keep their pace, those that turn seldom are stretched, and
    between the two the share changes with the pair's number.
    """
    turns = (rope.high_frequency_factor, rope.low_frequency_factor)
    high, low = (_pair_of(each, 2 * len(plain), rope) for each in turns)
    if rope.truncate:
        high, low = math.floor(high), math.ceil(low)
    high, low = max(high, 0), min(low, 2 * len(plain) - 1)
    low += 0.001 if high == low else 0
    stretched = ((torch.arange(len(plain), dtype=torch.float32) - high) / (low - high)).clamp(0, 1)
    return plain / rope.factor * stretched + plain * (1 - stretched)


def _pair_of(turns: float, size: int, rope: RopeSpec) -> float:
    """The number of the pair that turns so often within the original context; a fraction lies between two."""
    return size * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))


def rotation(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, magnitude: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cosines (c, c) and sines (-s, s): positions [batch, tokens] -> two of [batch, 1, tokens, size]."""
    angle = (positions.float().unsqueeze(-1) * frequencies).unsqueeze(1)
    cosine, sine = angle.cos() * magnitude, angle.sin() * magnitude
    return torch.cat((cosine, cosine), dim=-1).to(dtype), torch.cat((-sine, sine), dim=-1).to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + size/2]) by its angle. x: [batch, heads, tokens, values of a head], of which the
    first `size` turn.
    """
    size = cosine.shape[-1]
    if size < x.shape[-1]:
        turned, still = torch.split(x, [size, x.shape[-1] - size], dim=-1)
        return torch.cat((rotate(turned, cosine, sine), still), dim=-1)
    return torch.addcmul(x * cosine, x.roll(size // 2, dims=-1), sine)
