"""Rotary position embedding (RoFormer, Su et al. 2021), with the linear and the Llama 3 scaling of frequencies."""

import math

import torch
from torch import Tensor

from .spec import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_size: int) -> Tensor:
    """theta^(-2i/size) for i in [0, size/2), scaled. fp32 [size/2]."""
    exponent = torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size
    plain = 1.0 / (rope.theta**exponent)
    if rope.scaling == "linear":
        return plain / rope.factor
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


def rotation(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines (c, c) and sines (-s, s): positions [batch, tokens] -> two of [batch, 1, tokens, size]."""
    angle = (positions.float().unsqueeze(-1) * frequencies).unsqueeze(1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat((cosine, cosine), dim=-1).to(dtype), torch.cat((-sine, sine), dim=-1).to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns each pair (x[i], x[i + size/2]) by its angle. x: [batch, heads, tokens, size]."""
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine)
