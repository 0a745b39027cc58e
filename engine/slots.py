"""The KV cache in slots: one fixed stretch of keys and values for each running request.

Running requests sit in slots 0 .. n-1, so that a decode step reads one dense block and copies nothing. When a
request ends, the last one moves into its slot.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ..models.spec import TransformerSpec


def kv_bytes_per_token(spec: TransformerSpec, dtype: torch.dtype) -> int:
    """Bytes of keys and values that one token takes over all layers."""
    widths = (2 * layer.attention.num_kv_heads * layer.attention.head_size for layer in spec.layers)
    return sum(widths) * dtype.itemsize


class SlotCache:
    """Keys and values [slots, kv_heads, max_context, head_size] for every layer."""

    def __init__(
        self, spec: TransformerSpec, num_slots: int, max_context: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shapes = [
            (num_slots, layer.attention.num_kv_heads, max_context, layer.attention.head_size) for layer in spec.layers
        ]
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]

    def move(self, source: int, target: int, num_tokens: int) -> None:
        """Copies the first num_tokens of one slot over another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :num_tokens] = tensor[source, :, :num_tokens]


class PrefillContext:
    """Tokens start .. start+tokens of one slot; they see what the slot holds before them. Batch size 1."""

    def __init__(self, cache: SlotCache, slot: int, start: int, num_tokens: int) -> None:
        self._cache, self._slot, self._start, self._end = cache, slot, start, start + num_tokens
        device = cache.keys[0].device
        places = torch.arange(self._end, device=device)
        self._mask = places <= places[start:].unsqueeze(1) if start else None  # [tokens, end]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Stores keys and values, then attends over the slot up to the last of them."""
        keys, values = (kept[layer][self._slot : self._slot + 1] for kept in (self._cache.keys, self._cache.values))
        keys[:, :, self._start : self._end] = key
        values[:, :, self._start : self._end] = value
        grouped = query.shape[1] != key.shape[1]
        return functional.scaled_dot_product_attention(
            query, keys[:, :, : self._end], values[:, :, : self._end],
            attn_mask=self._mask, is_causal=self._mask is None, enable_gqa=grouped,
        )  # fmt: skip


class BranchContext:
    """Sequences of these lengths, side by side in one row, each going on after the first `start` tokens of a slot."""

    def __init__(self, cache: SlotCache, slot: int, start: int, lengths: list[int]) -> None:
        self._cache, self._slot, self._start = cache, slot, start
        device = cache.keys[0].device
        branch = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)).to(device)
        places = torch.arange(len(branch), device=device)
        own = (branch == branch.unsqueeze(1)) & (places <= places.unsqueeze(1))
        self._mask = torch.cat([own.new_ones(len(branch), start), own], dim=1)  # [tokens, start + tokens]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends over what the slot holds and the branch itself; stores nothing."""
        held = (
            kept[layer][self._slot : self._slot + 1, :, : self._start]
            for kept in (self._cache.keys, self._cache.values)
        )
        keys, values = (torch.cat([old, new], dim=2) for old, new in zip(held, (key, value), strict=True))
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._mask, enable_gqa=query.shape[1] != key.shape[1]
        )


class DecodeContext:
    """One new token for each of the slots 0 .. rows-1, at positions [rows]."""

    def __init__(self, cache: SlotCache, positions: list[int]) -> None:
        device = cache.keys[0].device
        self._cache, self._end = cache, max(positions) + 1
        self._rows = torch.arange(len(positions), device=device)
        self._positions = torch.tensor(positions, device=device)
        places = torch.arange(self._end, device=device)
        self._even = min(positions) == max(positions)
        # [rows, 1, 1, end]: a row sees what it holds, not the longer rows beside it
        self._mask = (places <= self._positions.unsqueeze(1))[:, None, None, :] if not self._even else None

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Stores one key and value a row; the heads of a group attend as if they were tokens of one head."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        rows, kv_heads = len(self._rows), key.shape[1]
        if self._even:  # a slice is stored several times faster than indices are
            keys[:rows, :, self._end - 1 : self._end] = key
            values[:rows, :, self._end - 1 : self._end] = value
        else:
            keys[self._rows, :, self._positions] = key.squeeze(2)
            values[self._rows, :, self._positions] = value.squeeze(2)
        grouped = query.reshape(rows, kv_heads, -1, query.shape[-1])  # [rows, kv_heads, group, size]
        mixed = functional.scaled_dot_product_attention(
            grouped, keys[:rows, :, : self._end], values[:rows, :, : self._end], attn_mask=self._mask
        )
        return mixed.reshape(query.shape)
