"""How a query weighs the positions that it sees: scale, window and soft cap, in plain torch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Weighing:
    """softmax(cap(scale q k)) over the last `window` positions, the query's own among them; 0 stands for all.

    cap(x) = c tanh(x / c) with c = soft_cap, or x where that is 0 (Gemma 2). scale: 0 stands for 1 / sqrt(size).
    """

    scale: float = 0.0
    window: int = 0
    soft_cap: float = 0.0

    def scale_of(self, size: int) -> float:
        """The factor of scores for heads of this size."""
        return self.scale or size**-0.5

    def seen(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether queries at positions [.., tokens] see those of keys, [.., positions]: [.., tokens, positions]."""
        distance = query.unsqueeze(-1) - key.unsqueeze(-2)
        return (distance >= 0) & (distance < self.window) if self.window else distance >= 0


PLAIN = Weighing()


def soft_capped(x: Tensor, cap: float) -> Tensor:
    """cap tanh(x / cap), or x where cap is 0."""
    return torch.tanh(x / cap) * cap if cap else x


def mixed(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, weighing: Weighing) -> Tensor:
    """The mix of values that each query makes. [.., heads, tokens, size]; kv_heads of key and value divide heads."""
    groups = query.shape[-3] // key.shape[-3]
    if not weighing.soft_cap:
        scale = weighing.scale or None
        return functional.scaled_dot_product_attention(query, key, value, seen, scale=scale, enable_gqa=groups > 1)
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=-3), value.repeat_interleave(groups, dim=-3)
    scores = soft_capped(query @ key.mT * weighing.scale_of(query.shape[-1]), weighing.soft_cap)
    return torch.softmax(scores.masked_fill(~seen, -torch.inf).float(), -1).to(value.dtype) @ value
