"""Positions that are sines and cosines (Vaswani et al. 2017), the sines first, and have no weights."""

import torch
from torch import Tensor

from .linear import TensorModule

_LONGEST = 10_000.0  # wavelengths go from 2 pi to 2 pi times this


class Sinusoids(TensorModule):
    """positions [...] -> [..., hidden], in the dtype that `load` sets."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dtype: torch.dtype | None = None

    def forward(self, positions: Tensor) -> Tensor:
        parts = torch.arange(0, self.hidden_size, 2, device=positions.device, dtype=torch.float64) / self.hidden_size
        angles = positions.double().unsqueeze(-1) / _LONGEST**parts
        cosines = angles[..., : self.hidden_size // 2].cos()  # of an odd size they are one less
        return torch.cat([angles.sin(), cosines], -1).to(self.dtype or torch.float32)
