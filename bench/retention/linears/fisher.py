"""What an error of a linear's output costs, from gradients of log p(label) for labels that the model draws itself."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ....models.context import CausalContext
from ....models.transformer import Layer, Transformer
from .matrices import Place

FISHER_WINDOWS = 2  # whose graph is in memory at once


@torch.inference_mode(False)
@torch.enable_grad()
def note_fisher_(model: Transformer, places: Sequence[Place], head: Place, windows: Tensor, seed: int) -> None:
    """matrix.fisher[n] = the mean over tokens of the squared gradient by output n: an error d of it costs about
    d^2 fisher / 2 nats (Amari 1998). Of the head: the mean of p (1 - p), which is the same without a draw.
    """
    sums = [torch.zeros(place.matrix.outputs) for place in places]
    draw = torch.Generator().manual_seed(seed)
    chance = torch.zeros(head.matrix.outputs)
    for ids in torch.split(windows.clone(), FISHER_WINDOWS):
        chance += _add_gradients_(model, places, sums, ids, draw)
    for place, total in zip(places, sums, strict=True):
        place.matrix.fisher = total / windows.numel()
        place.set(None)
    head.matrix.fisher = chance / windows.numel()


def _add_gradients_(
    model: Transformer, places: Sequence[Place], sums: Sequence[Tensor], ids: Tensor, draw: torch.Generator
) -> Tensor:
    """Adds the squares to `sums`; gives the sum of p (1 - p) over these tokens."""
    hooks = [_hooked(place, total) for place, total in zip(places, sums, strict=True)]
    x, turn = model.embed(ids)
    x = x.detach().float().requires_grad_()
    turn = None if turn is None else (turn[0].clone(), turn[1].clone())
    for layer in model.layers:
        if isinstance(layer, Layer):
            x = layer(x, turn, CausalContext())
    logs = torch.log_softmax(model.head(model.norm(x)).float().flatten(0, 1), -1)
    chances = logs.detach().exp()
    labels = torch.multinomial(chances, 1, generator=draw)
    torch.autograd.backward(logs.gather(1, labels).sum())
    for each in hooks:
        each.remove()
    return (chances * (1 - chances)).sum(0)


def _hooked(place: Place, total: Tensor) -> RemovableHandle:
    """Adds the squared gradients of what a place gives to a total, until it is removed."""

    def add(gradient: Tensor) -> Tensor:
        total.add_(gradient.flatten(0, -2).square().sum(0))
        return gradient

    def watch(_module: object, _given: object, y: Tensor) -> None:
        torch.Tensor.register_hook(y, add)  # type: ignore[no-untyped-call]

    return place.register_forward_hook(watch)
