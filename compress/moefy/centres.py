"""What inputs of linears mostly are, about which those linears grade them that are centred.

What a tier leaves unread of an input is W (x - c) where x lies near c, and over many inputs it adds up unless its mean
is 0. So c is the mean of the half of an input's values that lie nearest to each other, not of all: most neurons of GELU
rest at a small negative value of their own, and the few tokens at which one is large are read whatever c is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models.progress import Count
from ...models.spec import CENTRED, FFNSpec, TransformerSpec
from ...models.transformer import Transformer
from ..windows import Windows, batched, first_of, num_tokens
from .grading import watching

TOKENS = 2048  # that are looked at
_PASS_TOKENS = 1024
_STEPS = 4


def leans(ffn: FFNSpec) -> bool:
    """Whether most of what its neurons give is small and negative: a ReLU's are 0, and what is gated has both signs."""
    return not ffn.gated and ffn.activation != "relu"


def centred_paths(spec: TransformerSpec) -> list[str]:
    """The paths of the linears that the spec grades about a centre."""
    return [f"layers.{i}.ffn.down" for i, layer in enumerate(spec.layers) if layer.ffn.down == CENTRED]


@torch.inference_mode(False)  # what learns at a tier keeps them for its gradients
@torch.no_grad()
def centres(
    model: Transformer, paths: Sequence[str], windows: Windows, progress: Count | None = None
) -> dict[str, Tensor]:
    """By path of a linear, c of what the model gives it at the full tier, on at most TOKENS tokens: fp32 [inputs]."""
    linears = {path: model.get_submodule(path) for path in paths}
    seen = {linear: list[Tensor]() for linear in linears.values()}
    looked_at, done = first_of(windows, TOKENS), 0
    with watching([*seen], lambda linear, x: seen[linear].append(x.flatten(0, -2))):
        for part in batched(looked_at, _PASS_TOKENS) if paths else ():
            batch = part.to(model.device)
            model.hidden(batch.ids, context=batch.context(model))
            done += part.ids.numel()
            if progress:
                progress(done, num_tokens(looked_at))
    return {path: middle(torch.cat(seen.pop(linear))) for path, linear in linears.items()}


def middle(x: Tensor) -> Tensor:
    """Where most values of each column lie: fp32 [columns] of [rows, columns].

    The mean of those that lie no further away than the median does of the distances from the median, taken again about
    itself: a mean shift (Fukunaga and Hostetler 1975) whose window holds half of the values.
    """
    values = x.float()
    found = values.median(0).values
    width = (values - found).abs().median(0).values
    for _ in range(_STEPS):
        near = (values - found).abs() <= width
        mean = torch.where(near, values, 0.0).sum(0) / near.sum(0).clamp(min=1)
        found = torch.where(near.any(0), mean, found)  # where most are one value, a mean may round off it
    return found
