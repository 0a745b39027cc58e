"""A model walked layer by layer with all calibration windows at once, so that each layer sees what it will be given."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..models.ffn.dense import FFN
from ..models.finite import NotFinite, check_range, in_range, naming
from ..models.host_memory import give_back_freed_memory
from ..models.progress import Count
from ..models.transformer import Layer, Transformer
from .windows import Batch, Windows, batched, num_tokens

BATCH_TOKENS = 2048  # of one forward pass

# What an FFN is given and what it gives are [batch, tokens, hidden] each.
Constant = Callable[[Sequence[Tensor]], Tensor]  # of what it gives: [hidden], to be added to that
Visit = Callable[[int, FFN, Sequence[Tensor]], Constant | None]  # layer, its FFN, what that is given


@torch.inference_mode()
def walk(
    model: Transformer,
    windows: Windows,
    visit: Visit,
    operating_point: float = 0,
    progress: Count | None = None,
) -> tuple[float, float]:
    """Calls `visit` once a layer, in order; after it the layer is computed at the operating point, as `visit` left it,
    and the constant added that `visit` wants, if any.

    windows: token ids [sequences, length], or answers behind their sources. The states of all are in memory. Returns
    the shares of the FFN's bytes and of its neurons that a token used. Raises CheckpointError, with layer and tensor,
    where numbers pass what fp32 holds: those of the model, or those that `visit` makes of them.
    """
    batches = [batch.to(model.device) for batch in batched(windows, BATCH_TOKENS)]
    contexts = [batch.context(model) for batch in batches]
    states, turns = (list(each) for each in zip(*(model.embed(batch.ids) for batch in batches), strict=True))
    computes = [model.compute_of([operating_point] * len(batch.ids)) for batch in batches]
    for i, layer in enumerate(model.layers):
        if not isinstance(layer, Layer):
            raise TypeError("a Transformer is made of layers")
        given = list[Tensor]()
        for n, turn in enumerate(turns):  # one batch at a time, so that the states of all lie in memory once
            before, states[n] = layer.attend(states[n], turn, contexts[n])
            given.append(before)
        _check(model, i, states, batches)
        with naming(model, f"layers.{i}.ffn"):
            constant = visit(i, layer.ffn, given)
        for n, compute in enumerate(computes):
            given[n] = layer.ffn(given[n], compute)  # in its place: what the FFN gives
        added = None if constant is None else constant(given).to(given[0].dtype)
        for n in range(len(states)):
            states[n] = layer.joined(states[n], given[n] if added is None else given[n] + added)
        _check(model, i, states, batches)
        del given
        give_back_freed_memory()
        if progress:
            progress(i + 1, len(model.layers))
    spent = [
        (length * read, length * neurons)
        for compute, length in zip(computes, (batch.ids.shape[1] for batch in batches), strict=True)
        for read, neurons in compute.spent.shares(length)
    ]
    read, computed = (sum(part) / num_tokens(windows) for part in zip(*spent, strict=True))
    return read, computed


def _check(model: Transformer, layer: int, states: Sequence[Tensor], batches: Sequence[Batch]) -> None:
    """Raises CheckpointError where states are out of range, with the tensor where the full model's first are."""
    for x, batch in zip(states, batches, strict=True):
        if not in_range(x):
            check_range(model, batch.ids, batch.sources)
            with naming(model, f"layers.{layer}"):
                raise NotFinite("at the tier that is being set it gives states beyond fp32")
