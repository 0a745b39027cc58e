"""A model walked layer by layer with all calibration windows at once, so that each layer sees what it will be given."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..models.context import CausalContext
from ..models.ffn.dense import FFN
from ..models.finite import NotFinite, check_range, in_range, naming
from ..models.host_memory import give_back_freed_memory
from ..models.progress import Count
from ..models.transformer import Layer, Transformer

BATCH_TOKENS = 2048  # of one forward pass

# What an FFN is given and what it gives are [batch, tokens, hidden] each.
Constant = Callable[[Sequence[Tensor]], Tensor]  # of what it gives: [hidden], to be added to that
Visit = Callable[[int, FFN, Sequence[Tensor]], Constant | None]  # layer, its FFN, what that is given


@torch.inference_mode()
def walk(
    model: Transformer,
    windows: Tensor,
    visit: Visit,
    operating_point: float = 0,
    progress: Count | None = None,
) -> tuple[float, float]:
    """Calls `visit` once a layer, in order; after it the layer is computed at the operating point, as `visit` left it,
    and the constant added that `visit` wants, if any.

    windows: token ids [sequences, length]. The states of all windows are in memory. Returns the shares of the FFN's
    bytes and of its neurons that a token used. Raises CheckpointError, with layer and tensor, where numbers pass what
    fp32 holds: those of the model, or those that `visit` makes of them.
    """
    batches = list(batched(windows.to(model.norm.weight.device)))
    states, turns = (list(each) for each in zip(*map(model.embed, batches), strict=True))
    computes = [model.compute_of([operating_point] * len(batch)) for batch in batches]
    for i, layer in enumerate(model.layers):
        if not isinstance(layer, Layer):
            raise TypeError("a Transformer is made of layers")
        given = list[Tensor]()
        for n, turn in enumerate(turns):  # one batch at a time, so that the states of all lie in memory once
            before, states[n] = layer.attend(states[n], turn, CausalContext())
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
    spent = [row for compute in computes for row in compute.spent.shares(windows.shape[1])]
    read, computed = (sum(part) / len(windows) for part in zip(*spent, strict=True))
    return read, computed


def _check(model: Transformer, layer: int, states: Sequence[Tensor], batches: Sequence[Tensor]) -> None:
    """Raises CheckpointError where states are out of range, with the tensor where the full model's first are."""
    for x, ids in zip(states, batches, strict=True):
        if not in_range(x):
            check_range(model, ids)
            with naming(model, f"layers.{layer}"):
                raise NotFinite("at the tier that is being set it gives states beyond fp32")


def batched(windows: Tensor) -> Iterator[Tensor]:
    """The windows, as many at a time as fit a pass."""
    return iter(torch.split(windows, max(1, BATCH_TOKENS // windows.shape[1])))
