"""Causal attention over keys and values that lie in blocks: what a step of the engine does in each layer.

A sequence's keys and values lie in blocks of BLOCK_TOKENS tokens, anywhere in the pool; its table lists them in
order (Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", section 4).
The tokens of a step are one flat list: one of each sequence that decodes, many of each that prefills.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .cost import Cost
from .native import ISAS, Native, native
from .native_attention import ACTIVATIONS, MOST_SIZE, paged_attention_native
from .weighing import PLAIN, Weighing, mixed

Implementation = Literal["native", "torch"]

BLOCK_TOKENS = 16
LANES = 16  # a head is stored with zeros up to a multiple of this many values
_INT8_MOST = 127


@dataclass(frozen=True, slots=True)
class KVPages:
    """One layer's pool. keys, values: [blocks, kv_heads, BLOCK_TOKENS, padded size] in the dtype of the activations, or
    int8 with scales fp32 [blocks, kv_heads, BLOCK_TOKENS].
    """

    keys: Tensor
    values: Tensor
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PagedTokens:
    """Where the tokens of a step stand, for all layers alike.

    tables: int32 [sequences, blocks], the blocks of each sequence, anything behind the last that it uses; row:
    int32 [tokens], which table a token's sequence has, rising; positions: int32 [tokens], rising within a sequence.
    counts: tokens of each sequence, known on the host; longest: positions that any of them sees, at most.
    """

    tables: Tensor
    row: Tensor
    positions: Tensor
    counts: Sequence[int]
    longest: int


def padded_size(size: int) -> int:
    """How many values are stored of a head of this size."""
    return -(-size // LANES) * LANES


def paged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pages: KVPages,
    tokens: PagedTokens,
    weighing: Weighing = PLAIN,
    bias: Tensor | None = None,
) -> Tensor:
    """Stores the keys and values of all tokens, then softmax(q k^T / sqrt(size)) v over what each token may see: all
    positions of its sequence up to its own. Other scores, and a window: kernels/weighing.py.

    query: [tokens, heads, size]; key, value: [tokens, kv_heads, size], kv_heads divides heads -> like query.
    bias: [heads, distances], added to the scores of positions that are so far back.
    """
    library = native() if query.is_cpu else None
    requires_grad = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    isa = ISAS[library.isa] if library else None
    fits = _fits(query, key, value, pages, tokens) and (bias is None or tokens.longest <= bias.shape[1])
    choice = choose_paged_attention(query.dtype, query.shape[0] if fits else 0, query.shape[2], requires_grad, isa)
    if library and choice == "native":
        return by_library(query, key, value, pages, tokens, library, weighing, bias)
    return paged_attention_torch(query, key, value, pages, tokens, weighing, bias)


def choose_paged_attention(
    dtype: torch.dtype, tokens: int, size: int, requires_grad: bool, isa: str | None
) -> Implementation:
    """Which implementation answers on a CPU; `isa` is None where the C++ library is missing. One for any number of
    tokens, so that a chunk of a prompt gives the bits that its tokens give alone.
    """
    fits = tokens > 0 and dtype in ACTIVATIONS and padded_size(size) <= MOST_SIZE
    return "native" if fits and isa and not requires_grad else "torch"


def paged_attention_cost(tokens: int, heads: int, kv_heads: int, size: int, seen: int, page_bytes: int) -> Cost:
    """The cost of tokens of one sequence that see `seen` positions on average: the past is read once for all of them.

    page_bytes: of an element of keys and values; queries and results are fp32.
    """
    moved = 2 * kv_heads * size * page_bytes * (seen + tokens) + 2 * 4 * tokens * heads * size
    return Cost(bytes=moved, flops=4 * tokens * heads * size * seen)


def by_library(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pages: KVPages,
    tokens: PagedTokens,
    library: Native,
    weighing: Weighing = PLAIN,
    bias: Tensor | None = None,
) -> Tensor:
    """Calls the C++ of cpp/attention.cpp once."""
    kept = (pages.keys, pages.values, pages.key_scale, pages.value_scale)
    return paged_attention_native(
        query, key, value, kept, (tokens.tables, tokens.row, tokens.positions), library, weighing, bias
    )


def _fits(query: Tensor, key: Tensor, value: Tensor, pages: KVPages, tokens: PagedTokens) -> bool:
    """Whether all lies in memory as the C++ reads it."""
    keys, values, count = pages.keys, pages.values, query.shape[0]
    kept = query.dtype if pages.key_scale is None else torch.int8
    places = (tokens.tables, tokens.row, tokens.positions)
    return (
        query.dtype == key.dtype == value.dtype
        and keys.dtype == values.dtype == kept
        and key.shape == value.shape == (count, keys.shape[1], query.shape[2])
        and keys.shape == values.shape == (*keys.shape[:2], BLOCK_TOKENS, padded_size(query.shape[2]))
        and keys.is_contiguous()
        and values.is_contiguous()
        and tokens.row.shape == tokens.positions.shape == (count,)
        and all(each.dtype == torch.int32 for each in places)
    )


def paged_attention_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pages: KVPages,
    tokens: PagedTokens,
    weighing: Weighing = PLAIN,
    bias: Tensor | None = None,
) -> Tensor:
    """The same in plain torch."""
    store(key, value, pages, tokens)
    return paged_lookup(query, pages, tokens, weighing, bias)


def paged_lookup(
    query: Tensor, pages: KVPages, tokens: PagedTokens, weighing: Weighing = PLAIN, bias: Tensor | None = None
) -> Tensor:
    """The same of keys and values that are there already, in plain torch: tokens see what lies up to their positions,
    which may all be the last. Sequences that all have one token go in one product, of no shape but the buffers'.
    """
    if max(tokens.counts, default=0) == 1:
        positions = tokens.positions.unsqueeze(1)
        return _attend(query.unsqueeze(1), pages, tokens.tables, positions, tokens.longest, weighing, bias)[:, 0]
    found, first = torch.empty_like(query), 0
    for sequence, count in enumerate(tokens.counts):
        some = slice(first, first + count)
        table, positions = tokens.tables[sequence : sequence + 1], tokens.positions[some].unsqueeze(0)
        found[some] = _attend(query[some].unsqueeze(0), pages, table, positions, tokens.longest, weighing, bias)[0]
        first += count
    return found


def store(key: Tensor, value: Tensor, pages: KVPages, tokens: PagedTokens) -> None:
    """Puts key and value [tokens, kv_heads, size] where their positions are."""
    position = tokens.positions.long()
    block = tokens.tables[tokens.row.long(), position // BLOCK_TOKENS].long()
    place = position % BLOCK_TOKENS
    size = key.shape[-1]
    for new, kept, scale in ((key, pages.keys, pages.key_scale), (value, pages.values, pages.value_scale)):
        if scale is None:
            kept[block, :, place, :size] = new
            continue
        steps = (new.float().abs().amax(-1) / _INT8_MOST).clamp(min=1e-30)
        kept[block, :, place, :size] = (new.float() / steps.unsqueeze(-1)).round().to(torch.int8)
        scale[block, :, place] = steps


def _attend(
    query: Tensor,
    pages: KVPages,
    tables: Tensor,
    positions: Tensor,
    longest: int,
    weighing: Weighing,
    bias: Tensor | None = None,
) -> Tensor:
    """query: [sequences, tokens, heads, size]; positions: [sequences, tokens] -> like query."""
    sequences, count, heads, size = query.shape
    tables = tables[:, : math.ceil(longest / BLOCK_TOKENS)]
    places = torch.arange(tables.shape[1] * BLOCK_TOKENS, device=query.device)
    held = places <= positions[:, -1:]  # [sequences, places]; behind them lies anything, a NaN too
    found = gathered(pages, tables.where(held[:, ::BLOCK_TOKENS], 0).long(), size, query.dtype)
    keys, values = (each.where(held[:, None, :, None], 0) for each in found)
    kv_heads = keys.shape[1]
    seen = weighing.seen(positions, places)  # [sequences, tokens, places]
    # the heads of a group attend as if they were tokens of one head: [sequences, kv_heads, group * tokens, size]
    grouped = query.permute(0, 2, 1, 3).reshape(sequences, kv_heads, -1, size)
    mask = seen.repeat(1, heads // kv_heads, 1).unsqueeze(1)
    if bias is not None:
        back = (positions.unsqueeze(-1) - places).clamp(0, bias.shape[1] - 1)
        added = bias.to(query.dtype)[:, back].masked_fill(~seen, -torch.inf)  # [heads, sequences, tokens, places]
        mask = added.transpose(0, 1).reshape(sequences, kv_heads, -1, len(places))
    return mixed(grouped, keys, values, mask, weighing).reshape(sequences, heads, count, size).permute(0, 2, 1, 3)


def gathered(pages: KVPages, blocks: Tensor, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of blocks [sequences, n] side by side: [sequences, kv_heads, n * BLOCK_TOKENS, size]."""
    keys, values = _held(pages.keys, pages.key_scale, blocks), _held(pages.values, pages.value_scale, blocks)
    return keys[..., :size].to(dtype), values[..., :size].to(dtype)


def _held(kept: Tensor, scale: Tensor | None, blocks: Tensor) -> Tensor:
    found = kept[blocks]  # [sequences, n, kv_heads, BLOCK_TOKENS, padded size]
    if scale is not None:
        found = found.float() * scale[blocks].unsqueeze(-1)
    return found.transpose(1, 2).flatten(2, 3)
