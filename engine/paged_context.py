"""How the tokens of a step meet the keys and values in their blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.paged_attention import PagedTokens, paged_attention, paged_lookup
from ..kernels.weighing import PLAIN, Weighing
from .pages import Pages


def tokens_of(spans: Sequence[tuple[int, int, Sequence[int]]], device: torch.device) -> PagedTokens:
    """Where the tokens of spans (first position, number of tokens, table of blocks) stand."""
    counts = [count for _, count, _ in spans]
    width = max(len(table) for *_, table in spans)
    tables = torch.tensor([[*table, *[0] * (width - len(table))] for *_, table in spans], dtype=torch.int32)
    row = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], dtype=torch.int32)
    positions = torch.tensor([p for start, count, _ in spans for p in range(start, start + count)], dtype=torch.int32)
    longest = max(start + count for start, count, _ in spans)
    return PagedTokens(tables.to(device), row.to(device), positions.to(device), counts, longest)


class PagedContext:
    """A `SourceContext` for tokens in one flat list: a forward pass over [tokens, 1] ids.

    bias: [heads, distances], of tokens so far back. sources: where the sources of the tokens lie, in models that have
    some.
    """

    def __init__(
        self, pages: Pages, tokens: PagedTokens, bias: Tensor | None = None, sources: PagedTokens | None = None
    ) -> None:
        self._pages, self._tokens, self._bias, self._sources = pages, tokens, bias, sources

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        """Stores keys and values, then attends. query: [tokens, heads, 1, size] and so on."""
        query, key, value = (each[:, :, 0] for each in (query, key, value))
        mixed = paged_attention(query, key, value, self._pages.layers[layer], self._tokens, weighing, self._bias)
        return mixed.unsqueeze(2)

    def attend_source(self, layer: int, query: Tensor, weighing: Weighing = PLAIN) -> Tensor:
        """query: [tokens, heads, 1, size] -> like query."""
        if self._sources is None:
            raise ValueError("a decoder that goes on from a source was given none")
        mixed = paged_lookup(query[:, :, 0], self._pages.layers[layer], self._sources, weighing)
        return mixed.unsqueeze(2)
