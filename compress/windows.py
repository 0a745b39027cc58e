"""What goes through a model while a stage looks at it: windows of text, or answers behind the sources that they answer.

Rows that go together are of one length, so that no padding is ever looked at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from ..models.context import Context, Source
from ..models.transformer import CrossAttention, Layer, Transformer

KeysAndValues = tuple[Tensor, Tensor]  # [batch, kv_heads, tokens, size] each


@dataclass(frozen=True, slots=True)
class Batch:
    """ids: int64 [rows, tokens]; sources: int64 [rows, source tokens], where the model has an encoder that reads them
    first.
    """

    ids: Tensor
    sources: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The same on a device, in memory of its own."""
        sources = None if self.sources is None else self.sources.to(device, copy=True)
        return Batch(self.ids.to(device, copy=True), sources)

    def context(self, model: Transformer) -> Context:
        """What its tokens see of each other, and of what the model's own encoder, as it is now, reads."""
        source = None if self.sources is None else source_of(model, self.sources)
        return model.context_of(self.ids, source=source)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers with their sources, those of one length in a batch."""

    batches: tuple[Batch, ...]


Windows = Tensor | Answers  # int64 [sequences, length], or what a decoder with an encoder says


def num_tokens(windows: Windows) -> int:
    """Tokens that are looked at; sources are not among them."""
    return sum(batch.ids.numel() for batch in _whole(windows))


def first_of(windows: Windows, tokens: int) -> Windows:
    """The first rows, as many as have so many tokens together, and one at least."""
    if isinstance(windows, Tensor):
        return windows[: max(1, tokens // windows.shape[1])]
    taken, left = list[Batch](), tokens
    for batch in windows.batches:
        rows = max(0 if taken else 1, min(len(batch.ids), left // batch.ids.shape[1]))
        if rows:
            taken.append(_rows(batch, slice(0, rows)))
            left -= taken[-1].ids.numel()
    return Answers(tuple(taken))


def batched(windows: Windows, tokens: int) -> Iterator[Batch]:
    """All rows in their order, as many at a time as have so many tokens together, sources counted, and one at least."""
    for batch in _whole(windows):
        read = batch.ids.shape[1] + (0 if batch.sources is None else batch.sources.shape[1])
        step = max(1, tokens // read)
        for begin in range(0, len(batch.ids), step):
            yield _rows(batch, slice(begin, begin + step))


def source_of(model: Transformer, sources: Tensor) -> Source:
    """What `model.read` gives, the keys and values of each layer made when that layer asks for them: those of all
    layers are many times the states.
    """
    if model.encoder is None:
        raise ValueError(f"this {model.spec.family} has no encoder that could read a source")
    states = model.encoder.hidden(sources, context=model.encoder.context_of(sources))
    crosses = [layer.cross for layer in model.layers if isinstance(layer, Layer) and layer.cross is not None]
    return Source(_WhenAsked(crosses, states))


class _WhenAsked(Sequence[KeysAndValues]):
    """Keys and values of an encoder's states by the number of the layer."""

    def __init__(self, crosses: Sequence[CrossAttention], states: Tensor) -> None:
        self._crosses, self._states = crosses, states

    def __len__(self) -> int:
        return len(self._crosses)

    @overload
    def __getitem__(self, index: int) -> KeysAndValues: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[KeysAndValues]: ...
    def __getitem__(self, index: int | slice) -> KeysAndValues | Sequence[KeysAndValues]:
        if isinstance(index, slice):
            return [each.remembered(self._states) for each in self._crosses[index]]
        return self._crosses[index].remembered(self._states)


def _whole(windows: Windows) -> tuple[Batch, ...]:
    return (Batch(windows),) if isinstance(windows, Tensor) else windows.batches


def _rows(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.ids[rows], None if batch.sources is None else batch.sources[rows])
