"""A model walked layer by layer with all calibration windows at once, so that each layer sees what it will be given."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..models.context import CausalContext
from ..models.ffn import FFN
from ..models.host_memory import give_back_freed_memory
from ..models.transformer import Layer, Transformer

BATCH_TOKENS = 2048  # of one forward pass

Visit = Callable[[int, FFN, Sequence[Tensor]], None]  # layer, its FFN, what the FFN is given: [batch, tokens, hidden]


@torch.inference_mode()
def walk(
    model: Transformer,
    windows: Tensor,
    visit: Visit,
    tier: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, float]:
    """Calls `visit` once a layer, in order; after it the layer is computed at `tier`, as `visit` left it.

    windows: token ids [sequences, length]. The states of all windows are in memory. Returns the shares of the FFN's
    bytes and of its neurons that a token used.
    """
    batches = list(batched(windows))
    states, turns = (list(each) for each in zip(*map(model.embed, batches), strict=True))
    accounts = [model.compute_of([tier] * len(batch)) for batch in batches]
    for i, layer in enumerate(model.layers):
        if not isinstance(layer, Layer):
            raise TypeError("a Transformer is made of layers")
        for n, turn in enumerate(turns):  # one batch at a time, so that the states of all lie in memory once
            states[n] = layer.attend(states[n], turn, CausalContext())
        given = [layer.ffn_norm(x) for x in states]
        visit(i, layer.ffn, given)
        for n, account in enumerate(accounts):
            states[n] = states[n] + layer.ffn(given[n], account)
        del given
        give_back_freed_memory()
        if progress:
            progress(i + 1, len(model.layers))
    spent = [row for account in accounts for row in account.spent]
    read, computed = (sum(part) / windows.numel() for part in zip(*spent, strict=True))
    return read / model.whole_ffn[0], computed / model.whole_ffn[1]


def batched(windows: Tensor) -> Iterator[Tensor]:
    """The windows, as many at a time as fit a pass."""
    return iter(torch.split(windows, max(1, BATCH_TOKENS // windows.shape[1])))
