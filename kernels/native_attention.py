"""The call into cpp/attention.cpp."""

import torch
from torch import Tensor

from .native import Native
from .weighing import Weighing

ACTIVATIONS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # the codes of cpp/attention.cpp
MOST_SIZE = 256  # of a head, stored


def paged_attention_native(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pages: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    places: tuple[Tensor, Tensor, Tensor],
    library: Native,
    weighing: Weighing,
    bias: Tensor | None = None,
) -> Tensor:
    """Stores key and value and attends, as `paged_attention` says; the caller has checked dtypes and shapes, and that
    the bias [heads, distances] has a number for every distance back.

    pages: keys, values and their scales, contiguous; places: tables, rows and positions, int32. A token's result has
    the same bits alone, in any batch and in any chunk of its sequence, on any number of threads.
    Raises IndexError, with nothing stored, where these point outside or positions do not rise.
    """
    query, key, value = (each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value))
    keys, values, key_scale, value_scale = pages
    tables, row, positions = (each if each.stride(-1) == 1 else each.contiguous() for each in places)
    tokens, heads, size = query.shape
    blocks, kv_heads, _, padded = keys.shape
    mixed = query.new_empty(query.shape)
    ahead = None if bias is None else bias.detach().float().flip(1).contiguous()
    done = library.library.moesaic_paged_attention(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        mixed.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        None if key_scale is None else key_scale.data_ptr(),
        None if value_scale is None else value_scale.data_ptr(),
        tables.data_ptr(),
        row.data_ptr(),
        positions.data_ptr(),
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        tables.stride(0),
        tokens,
        heads,
        kv_heads,
        size,
        padded,
        *tables.shape,
        blocks,
        weighing.scale_of(size),
        weighing.window,
        weighing.soft_cap,
        torch.get_num_threads(),
        library.isa,
        ACTIVATIONS[query.dtype],
        None,
        None if ahead is None else ahead.data_ptr(),
        *((0, 0) if ahead is None else (ahead.stride(0), ahead.shape[1] - 1)),
    )
    if not done:
        raise IndexError("tables, rows or positions of the tokens point outside the pool, or positions do not rise")
    return mixed
