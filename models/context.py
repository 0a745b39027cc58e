"""How queries meet keys and values. A `Context` owns the keys and values that a forward pass may see.

The engine's cache is one; `CausalContext`, which remembers nothing, serves evaluation and training, and `WholeContext`
encoders.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..kernels.weighing import PLAIN, Weighing, mixed


class Context(Protocol):
    """Takes the keys and values of the new tokens and gives each query its mix of all values it may see."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        """query: [batch, heads, tokens, size], key and value: [batch, kv_heads, tokens, size] -> like query."""
        ...


class CausalContext:
    """Every token sees itself and the tokens before it in the same call."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        if weighing.window or weighing.soft_cap:
            places = torch.arange(query.shape[2], device=query.device)
            return mixed(query, key, value, weighing.seen(places, places), weighing)
        grouped, scale = query.shape[1] != key.shape[1], weighing.scale or None
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )


class WholeContext:
    """Every token sees all tokens of its row in the same call, those behind it too, and no padding.

    lengths: int64 [batch], of the rows, where some are padded at their ends. bias: [heads, tokens, tokens], added to
    the scores.
    """

    def __init__(self, tokens: int, lengths: Tensor | None = None, bias: Tensor | None = None) -> None:
        self._mask = bias
        if lengths is not None:
            seen = (torch.arange(tokens, device=lengths.device) < lengths[:, None])[:, None, None]
            self._mask = seen if bias is None else bias.masked_fill(~seen, -torch.inf)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        grouped, scale = query.shape[1] != key.shape[1], weighing.scale or None
        return functional.scaled_dot_product_attention(query, key, value, self._mask, scale=scale, enable_gqa=grouped)
