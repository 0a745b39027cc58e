"""Distillation at a tier: what a tier loses by reading less is learned away before the tier exists."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from ...models.checkpoint import Checkpoint
from ...models.ffn.dense import FFN
from ...models.transformer import Layer, Transformer
from ..material import Workshop
from ..moefy.budget import thresholds_for
from ..moefy.importance import neuron_importance
from ..walk import walk
from .tier_ffn import TierFFN
from .tier_linear import AtTier
from .tier_model import put_tier_linears_
from .tier_settings import TierSettings
from .training import Lesson


class TierLesson(Lesson):
    """Has a part of each batch computed at the tier, by the twins of a model that can."""

    def __init__(self, twins: Sequence[TierFFN | AtTier], mix: float) -> None:
        self._twins, self._mix = twins, mix

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """First the rows at the tier, then those in full."""
        at_tier = max(1, round(self._mix * len(rows)))
        for sparse, group in ((True, rows[:at_tier]), (False, rows[at_tier:])):
            for twin in self._twins:
                twin.at_tier = sparse
            if len(group):
                yield group


class InputLesson(TierLesson):
    """The same where inputs are graded: what is read of the weights is found anew before each step."""

    def __init__(self, twins: Sequence[AtTier], mix: float) -> None:
        super().__init__(twins, mix)
        self._linears = twins

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        for linear in self._linears:
            linear.round_again()
        yield from super().parts(rows)


def lesson_at(source: Checkpoint, model: Transformer, settings: TierSettings, workshop: Workshop) -> TierLesson:
    """Gives a model of the source's weights what computes at the tier: linears where inputs are graded, else FFNs."""
    if settings.grain_of(source.spec) == "inputs":
        return InputLesson(put_tier_linears_(model, source, settings, workshop), settings.mix)
    return TierLesson(_put_tier_ffns_(model, settings, workshop), settings.mix)


def _put_tier_ffns_(model: Transformer, settings: TierSettings, workshop: Workshop) -> list[TierFFN]:
    """How many neurons of each layer the tier touches is found once, from the scores of the model as it comes."""
    twins, windows, hidden = list[TierFFN](), workshop.windows, model.spec.hidden_size
    importance = neuron_importance(model, windows, workshop.seed, _teller(workshop, "importance of neurons"))
    for layer, spec, each in zip(model.layers, model.spec.layers, importance, strict=True):
        if isinstance(layer, Layer):
            ffn, experts = spec.ffn, settings.experts(spec.ffn, hidden)
            device, compensate = model.device, settings.as_moefy.compensates(ffn.gated)
            layer.ffn = TierFFN.of(layer.ffn, hidden, ffn, experts, each.to(device), compensate)
            twins.append(layer.ffn)
    _share_out(model, twins, settings, workshop)
    return twins


def _share_out(model: Transformer, twins: Sequence[TierFFN], settings: TierSettings, workshop: Workshop) -> None:
    """What each layer touches, as the thresholds that spend the tier's bytes bring it about."""
    seen = [settings.scores(layer.ffn, model.spec.hidden_size) for layer in model.spec.layers]
    windows = workshop.windows

    def watch(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
        for x in given:
            seen[index].add(twins[index].foreseen(x.flatten(0, -2)).scores)

    model.prepare()
    walk(model, windows, watch, progress=_teller(workshop, "scores of neurons"))
    thresholds = thresholds_for(seen, settings.share, settings.allocation or "global")
    for ffn, scores, threshold in zip(twins, seen, thresholds, strict=True):
        ffn.touched, ffn.ratio = scores.shares_at(threshold)[2], scores.ratio


def _teller(workshop: Workshop, what: str) -> Any:
    return lambda done, of: workshop.progress(f"distill: {what}", done, of)
