"""Routers of all layers, trained on what the dense model's FFNs are given and give."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...models.experts import ExpertFFN
from ...models.ffn import FFN
from ...models.linear import dense_weight
from ...models.transformer import Transformer
from ..material import Workshop
from ..walk import walk
from .norms import expert_norms
from .router import RouterTraining, centroids, train_router


def train_routers_(model: Transformer, workshop: Workshop, share: float) -> dict[str, list[float]]:
    """Gives every expert FFN its router, in bf16; what each captures of the norms in the best `share` of pairs.

    Layers are seen as the dense model computes them (D2DMoE, Szatkowski et al. 2024, section 3.2).
    """
    captured: dict[str, list[float]] = {"captured": [], "perfect": []}

    def learn(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
        if not isinstance(ffn, ExpertFFN) or ffn.router is None:
            raise TypeError("only experts with a router of their own are trained")
        found = _trained(ffn, given, RouterTraining(ffn.experts.router_width, share=share, seed=workshop.seed + index))
        ffn.router.first.weight = nn.Parameter(found.first.bfloat16(), requires_grad=False)
        ffn.router.second.weight = nn.Parameter(found.second.bfloat16(), requires_grad=False)
        captured["captured"].append(found.captured)
        captured["perfect"].append(found.perfect)

    walk(model, workshop.calibration.windows, learn, progress=_teller(workshop))
    return captured


def _trained(ffn: ExpertFFN, given: Sequence[Tensor], training: RouterTraining) -> Any:
    """Outside inference mode, whose tensors cannot be learned from."""
    parts, down = [x.flatten(0, -2) for x in given], dense_weight(ffn.down)
    norms = torch.cat([expert_norms(ffn.hidden(x), down, ffn.experts.size) for x in parts])
    rows = centroids(dense_weight(ffn.up if ffn.gate is None else ffn.gate), ffn.experts.size)
    with torch.inference_mode(False):
        return train_router(torch.cat(parts), norms.clone(), training, rows.clone())


def _teller(workshop: Workshop) -> Any:
    return lambda n, of: workshop.progress("calibrate: training routers", n, of)
