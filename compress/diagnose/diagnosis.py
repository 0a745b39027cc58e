"""A model run over text: how sparse its layers are and, where it has tiers, what each does with the tiles."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...models.checkpoint import Checkpoint
from ...models.devices import choose_device, memory_named
from ...models.errors import SetupError
from ...models.ffn.dense import FFN
from ...models.ffn.sparse import SparseFFN
from ...models.linear import dense_weight
from ...models.progress import Count, Progress
from ...models.spec import TransformerSpec
from ...models.transformer import Transformer
from ..material import load_exact
from ..moefy.norms import tile_norms
from ..walk import Visit, walk
from .activity import ActivityCount, LayerActivity
from .passages import Passages
from .usage import LayerUsage, UsageCount, mean_unions

WAY_OUT = "give --device cpu"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """layers: the neurons at the full tier. tiers: by name, the tiles of each layer.

    tokens, available: of the text, those that were read and all; experts: how many tiles each layer has, 0 for a dense
    one, where there is no tier either.
    """

    text: str
    tokens: int
    available: int
    experts: tuple[int, ...]
    layers: tuple[LayerActivity, ...]
    tiers: dict[str, tuple[LayerUsage, ...]]

    def to_json(self) -> dict[str, Any]:
        """All of it, every tile's usage too, and by consecutive tokens the means of the layers' unions."""
        values = asdict(self)
        values["unions"] = {
            name: {
                size: {"together": real, "by_chance": chance} for size, (real, chance) in mean_unions(layers).items()
            }
            for name, layers in self.tiers.items()
        }
        for name, layers in self.tiers.items():
            for value, layer in zip(values["tiers"][name], layers, strict=True):
                summary = {"min": min(layer.usage), "median": median(layer.usage), "max": max(layer.usage)}
                value |= {"usage_summary": summary, "gini": layer.gini, "rare": list(layer.rare)}
        return values


def diagnose(
    checkpoint: Checkpoint, passages: Passages, progress: Progress, device: torch.device | None = None
) -> Diagnosis:
    """Runs the model over the passages once at the full tier and once at each other tier.

    At a tier each layer sees what the layers before it give at that tier. device: where, by default a GPU where there
    is one. Raises CheckpointError for damaged weights, SetupError for a device with too little memory.
    """
    refuse_mixture(checkpoint.spec)
    with memory_named("inspect", WAY_OUT):
        model = load_exact(checkpoint, device or choose_device(None))
        layers = _activity(model, passages, progress)
        tiers = {
            tier.name: _usage(model, passages, point, partial(progress, f"experts at {tier.name}"))
            for point, tier in enumerate(checkpoint.record.tiers, 1)
        }
    experts = tuple(layer.ffn.experts.count(layer.ffn.width) for layer in checkpoint.spec.layers)
    return Diagnosis(passages.names, passages.tokens, passages.available, experts, layers, tiers)


def refuse_mixture(spec: TransformerSpec) -> None:
    """Raises SetupError for a model without FFNs whose neurons all tokens pass."""
    if spec.is_mixture:
        raise SetupError("the FFNs of this model are mixtures of experts, and neurons are watched in dense ones only")


def walk_passages(model: Transformer, passages: Passages, visit: Visit, operating_point: int, progress: Count) -> None:
    """`walk`, one batch of passages after the other: memory holds the states of one."""
    batches = list(passages.batches())
    for i, batch in enumerate(batches):
        walk(model, batch, visit, operating_point)
        progress(i + 1, len(batches))


def _activity(model: Transformer, passages: Passages, progress: Progress) -> tuple[LayerActivity, ...]:
    counts: dict[int, ActivityCount] = {}

    def look(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
        if index not in counts:
            counts[index] = ActivityCount(ffn)
        for x in given:
            counts[index].add(ffn.hidden(x))

    walk_passages(model, passages, look, 0, partial(progress, "activity of neurons"))
    return tuple(counts[i].result() for i in sorted(counts))


def _usage(model: Transformer, passages: Passages, operating_point: int, progress: Count) -> tuple[LayerUsage, ...]:
    counts: dict[int, UsageCount] = {}

    def look(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
        if not isinstance(ffn, SparseFFN):
            raise TypeError("a model with tiers has sparse FFNs in every layer")
        if index not in counts:
            counts[index] = UsageCount(ffn.num_tiles, ffn.thresholds.device)
        for x in given:
            norms = tile_norms(ffn.hidden(x).flatten(0, -2), dense_weight(ffn.down), ffn.tile)
            counts[index].add(~(ffn.scores(x) <= ffn.thresholds[operating_point, 0]), norms)

    walk_passages(model, passages, look, operating_point, progress)
    return tuple(counts[i].result() for i in sorted(counts))
