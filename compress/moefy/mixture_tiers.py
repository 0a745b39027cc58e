"""Tiers of a model that was trained as a mixture of experts: at a lower one a token takes fewer of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import RecipeError
from ...models.ffn.mixture import MixtureFFN
from ...models.record import TierRecord
from ...models.spec import TransformerSpec
from ...models.transformer import Layer, Transformer
from ..material import Material, Workshop
from ..walk import walk
from ..windows import num_tokens
from .settings import MoefySettings

_PARTS = tuple(i / 8 for i in range(8))  # of the way from the tier before; 0 is just beyond it


def mixture_spec(spec: TransformerSpec, settings: MoefySettings) -> TransformerSpec:
    """The spec with these tiers. Raises RecipeError for settings of experts that moefy would make."""
    named = settings.model_fields_set - {"tiers"}
    if named:
        raise RecipeError(
            f"moefy: {min(named)} is a setting of experts that are made, and this model was trained with experts; "
            "leave all but tiers out"
        )
    return replace(spec, num_tiers=1 + len(settings.tiers))


def mixture_material(
    source: Checkpoint, spec: TransformerSpec, settings: MoefySettings, workshop: Workshop
) -> Material:
    """The source's tensors, and how many experts a token takes at each tier."""
    model = workshop.load(source)
    mixtures = _mixtures(model)
    for ffn in mixtures:
        ffn.thresholds = torch.full((spec.num_tiers,), float(ffn.active), device=workshop.device)
    model.spec = spec
    tiers = tuple(
        _set_tier(model, index, TierRecord(name, share), workshop)
        for index, (name, share) in enumerate(settings.tiers.items(), 1)
    )
    own = {name: each.cpu() for name, each in model.state_dict().items() if name.endswith("ffn.thresholds")}
    return Material(spec, lambda: _with_thresholds(source, own), tiers)


def _with_thresholds(source: Checkpoint, own: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from read_tensors(source)
    yield from own.items()


def _set_tier(model: Transformer, index: int, tier: TierRecord, workshop: Workshop) -> TierRecord:
    """Sets the number of experts that comes nearest to the tier's share of bytes, and says what was read."""
    mixtures, whole = _mixtures(model), model.whole.bytes
    before = [_taken(ffn, index - 1) for ffn in mixtures]
    for ffn in mixtures:
        least, each = ffn.prices.fixed, ffn.prices.parts[0] * ffn.width / ffn.active
        wanted = round((tier.share * ffn.whole_bytes - least) / each)
        _table(ffn)[index] = max(1, min(wanted, _taken(ffn, index - 1)))
    now = [_taken(ffn, index) for ffn in mixtures]
    between = [[part, _bytes(model, mixtures, before, now, part) / whole] for part in _PARTS]
    read, neurons = walk(model, workshop.windows, lambda *_: None, index)
    active = [_active_part(layer, index) for layer in model.layers]
    figures = {
        "bytes_share": read, "neurons_share": neurons, "tokens": num_tokens(workshop.windows),
        "active_by_layer": active, "between": between,
    }  # fmt: skip
    return replace(tier, calibrated=figures)


def _bytes(
    model: Transformer, mixtures: Sequence[MixtureFFN], before: Sequence[float], now: Sequence[float], part: float
) -> float:
    """What a token reads a part of the way between two tiers."""
    read = model.whole.fixed_bytes
    for ffn, start, end in zip(mixtures, before, now, strict=True):
        taken = int(ffn.taken(torch.tensor(start + (end - start) * part)))
        read += ffn.prices.fixed + taken * ffn.prices.parts[0] * ffn.width / ffn.active
    return read


def _mixtures(model: Transformer) -> list[MixtureFFN]:
    return [each.ffn for each in model.layers if isinstance(each, Layer) and isinstance(each.ffn, MixtureFFN)]


def _table(ffn: MixtureFFN) -> Tensor:
    if ffn.thresholds is None:
        raise TypeError("a mixture with tiers has a table of them")
    return ffn.thresholds


def _taken(ffn: MixtureFFN, tier: int) -> float:
    return float(_table(ffn)[tier])


def _active_part(layer: nn.Module, tier: int) -> float:
    """The share of the neurons of a layer that a token passes."""
    ffn = layer.ffn if isinstance(layer, Layer) else None
    return _taken(ffn, tier) / ffn.active if isinstance(ffn, MixtureFFN) else 1.0
