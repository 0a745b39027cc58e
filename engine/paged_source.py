"""What an encoder makes of sources, put into blocks of the pool where each layer of the decoder finds it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.paged_attention import PagedTokens, store
from ..models.transformer import Transformer
from .paged_context import tokens_of
from .pages import Pages


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """The source that a sequence goes on from, of so many tokens, whose keys and values lie in the blocks of its table;
    unread: its tokens, where they are to be read in this step, or none.
    """

    unread: Sequence[int]
    length: int
    table: Sequence[int]


def read_sources(model: Transformer, pages: Pages, sources: Sequence[SourceSpan]) -> None:
    """Reads them in one pass and stores their keys and values; the same again changes nothing."""
    if not sources:
        return
    device, most = model.device, max(source.length for source in sources)
    rows = [[*source.unread, *[0] * (most - source.length)] for source in sources]
    lengths = torch.tensor([source.length for source in sources], device=device)
    padded = any(source.length < most for source in sources)
    read = model.read(torch.tensor(rows, device=device), lengths if padded else None)
    places = tokens_of([(0, source.length, source.table) for source in sources], device)
    there = torch.arange(most, device=device) < lengths[:, None]
    for (keys, values), kept in zip(read.layers, pages.layers, strict=True):
        store(_in_a_row(keys, there), _in_a_row(values, there), kept, places)


def sources_of(sources: Sequence[SourceSpan], counts: Sequence[int], device: torch.device) -> PagedTokens:
    """What tokens see of their sources, `counts` of each: they stand at its last place, from which all is seen."""
    width = max(len(source.table) for source in sources)
    tables = torch.tensor([[*source.table, *[0] * (width - len(source.table))] for source in sources])
    pairs = list(zip(sources, counts, strict=True))
    row = torch.tensor([i for i, count in enumerate(counts) for _ in range(count)], dtype=torch.int32)
    positions = torch.tensor([source.length - 1 for source, count in pairs for _ in range(count)], dtype=torch.int32)
    longest = max(source.length for source in sources)
    return PagedTokens(tables.to(torch.int32).to(device), row.to(device), positions.to(device), counts, longest)


def _in_a_row(padded: Tensor, there: Tensor) -> Tensor:
    """[rows, heads, tokens, size] -> [tokens of all rows, heads, size], without the padding."""
    return padded.transpose(1, 2)[there]
