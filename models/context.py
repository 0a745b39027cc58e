"""How queries meet keys and values. A `Context` owns the keys and values that a forward pass may see.

The engine's cache is one; `CausalContext`, which remembers nothing, serves evaluation and training, and `WholeContext`
encoders. A decoder that attends to a source is given a `SourceContext`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


class SourceContext(Context, Protocol):
    """The same, with the keys and values of what an encoder has read."""

    def attend_source(self, layer: int, query: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        """query: [batch, heads, tokens, size] -> like query, mixed of the values of its row's source."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """What a decoder sees of texts that its encoder has read: keys and values of each of its layers, [batch, kv_heads,
    tokens, size] each. lengths: int64 [batch], of the rows, where some are padded at their ends.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    lengths: Tensor | None = None


class CausalContext:
    """Every token sees itself and the tokens before it in the same call. bias: [heads, tokens, tokens], added to the
    scores.
    """

    def __init__(self, bias: Tensor | None = None) -> None:
        self._bias = bias

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        if weighing.window or weighing.soft_cap or self._bias is not None:
            places = torch.arange(query.shape[2], device=query.device)
            seen = weighing.seen(places, places)
            mask = seen if self._bias is None else self._bias.masked_fill(~seen, -torch.inf)
            return mixed(query, key, value, mask, weighing)
        grouped, scale = query.shape[1] != key.shape[1], weighing.scale or None
        return functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )


class SourcedContext(CausalContext):
    """The same of a decoder, each row of which sees all of its source, and no padding."""

    def __init__(self, source: Source, bias: Tensor | None = None) -> None:
        super().__init__(bias)
        self._source = source

    def attend_source(self, layer: int, query: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        key, value = self._source.layers[layer]
        return WholeContext(key.shape[2], self._source.lengths).attend(layer, query, key, value, weighing)


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
