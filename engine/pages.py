"""The pool of blocks itself: keys and values of every layer, and how many blocks there may be."""

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.paged_attention import BLOCK_TOKENS, KVPages, padded_size
from ..models.spec import AttentionSpec, TransformerSpec


def block_bytes(spec: TransformerSpec, dtype: torch.dtype, int8: bool = False) -> int:
    """What one block takes over all layers."""
    return sum(_block_bytes(layer.attention, dtype, int8) for layer in spec.layers)


def _block_bytes(attention: AttentionSpec, dtype: torch.dtype, int8: bool) -> int:
    size = padded_size(attention.head_size)
    head = size + torch.float32.itemsize if int8 else size * dtype.itemsize
    return 2 * attention.num_kv_heads * BLOCK_TOKENS * head


class Pages:
    """Keys and values [blocks, kv_heads, BLOCK_TOKENS, padded size] for every layer, in the dtype of the activations or
    in int8 with a scale for each token and head. On a CPU, memory is used once a block is.
    """

    def __init__(
        self, spec: TransformerSpec, num_blocks: int, dtype: torch.dtype, device: torch.device, int8: bool = False
    ) -> None:
        self.num_blocks = num_blocks
        self.layers = [_layer(layer.attention, num_blocks, dtype, device, int8) for layer in spec.layers]

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Makes the second block of each pair the same as the first."""
        latest = {target: source for source, target in pairs}  # of a block that was given away and taken again
        table = torch.tensor([[*latest.values()], [*latest]]).to(self.layers[0].keys.device)
        sources, targets = table[0], table[1]
        for layer in self.layers:
            for pool in (layer.keys, layer.values, layer.key_scale, layer.value_scale):
                if pool is not None:
                    pool[targets] = pool[sources]


def _layer(attention: AttentionSpec, num_blocks: int, dtype: torch.dtype, device: torch.device, int8: bool) -> KVPages:
    heads = (num_blocks, attention.num_kv_heads, BLOCK_TOKENS)
    shape = (*heads, padded_size(attention.head_size))
    keys, values = (_zeros(shape, torch.int8 if int8 else dtype, device) for _ in range(2))
    if not int8:
        return KVPages(keys, values)
    return KVPages(keys, values, *(_zeros(heads, torch.float32, device) for _ in range(2)))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that, on a CPU, take no memory before they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = 1
    for size in shape:
        count *= size
    return torch.frombuffer(mmap.mmap(-1, max(1, count * dtype.itemsize)), dtype=dtype, count=count).view(shape)
