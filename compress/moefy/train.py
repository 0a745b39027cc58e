"""Routers of all layers, trained on what the dense model's FFNs are given and give."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.ffn.dense import FFN
from ...models.ffn.routed import NormRouter, RoutedFFN
from ...models.linear import dense_weight
from ...models.progress import Count
from ...models.transformer import Transformer
from ..material import Workshop
from ..walk import walk
from .norms import tile_norms
from .router import RouterTraining, centroids, train_router


def train_routers_(
    model: Transformer, ffns: Sequence[RoutedFFN], workshop: Workshop, share: float, progress: Count
) -> dict[str, list[float]]:
    """Gives the FFN of every layer its router, in bf16; what each captures of the norms in the best `share` of pairs.

    Layers are seen as the dense model computes them (D2DMoE, Szatkowski et al. 2024, section 3.2).
    """
    captured: dict[str, list[float]] = {"captured": [], "perfect": []}

    def learn(index: int, _: FFN, given: Sequence[Tensor]) -> None:
        ffn = ffns[index]
        found = _trained(ffn, given, RouterTraining(ffn.router_width, share=share, seed=workshop.seed + index))
        ffn.router = NormRouter.of(found.first.bfloat16(), found.second.bfloat16())
        captured["captured"].append(found.captured)
        captured["perfect"].append(found.perfect)

    walk(model, workshop.windows, learn, progress=progress)
    return captured


def _trained(ffn: RoutedFFN, given: Sequence[Tensor], training: RouterTraining) -> Any:
    """Trains outside inference mode, whose tensors cannot be learned from."""
    parts, down = [x.flatten(0, -2) for x in given], dense_weight(ffn.down)
    norms = torch.cat([tile_norms(ffn.hidden(x), down, ffn.tile) for x in parts])
    rows = centroids(dense_weight(ffn.up if ffn.gate is None else ffn.gate), ffn.tile)
    with torch.inference_mode(False):
        return train_router(torch.cat(parts), norms.clone(), training, rows.clone())
