"""Distillation at a tier: what int8 bit planes lose by computing fewer neurons is learned away before they exist."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from ...models.errors import RecipeError
from ...models.ffn.dense import FFN
from ...models.spec import ExpertSpec, FFNSpec, TransformerSpec
from ...models.transformer import Layer, Transformer
from ..material import Workshop
from ..moefy.budget import Allocation, PlaneScores, thresholds_for
from ..moefy.importance import neuron_importance
from ..moefy.settings import MoefySettings, ffn_shape
from ..strict import Strict
from ..walk import walk
from .tier_ffn import TierFFN
from .training import Lesson

_ALMOST_ALL = 0.99  # of the bytes: a tier has less than all


class TierSettings(Strict):
    """share: of the FFN's int8 bytes, as a tier of `moefy` has it; bits, refined_bits, allocation and compensate
    likewise: what is not named is as `moefy` would choose it for a lowest tier of this share.

    mix: the part of each batch that is computed at the tier; the rest is computed in full, so that the full tier stays
    what it is.
    """

    share: float = Field(gt=0, le=1)
    bits: int | None = Field(default=None, ge=1, le=7)
    refined_bits: int | None = Field(default=None, ge=2, le=8)
    allocation: Allocation = "global"
    mix: float = Field(default=0.5, gt=0, le=1)
    compensate: bool | None = None

    def check(self, spec: TransformerSpec) -> None:
        """Raises RecipeError for a share that its router alone would use up, and for experts of several neurons."""
        for i, layer in enumerate(spec.layers):
            if layer.ffn.experts.size > 1:
                raise RecipeError(
                    f"distill: at trains experts of one neuron, these have {layer.ffn.experts.size}; "
                    "choose expert_size: 1, or leave at out"
                )
            scores = self.scores(layer.ffn, spec.hidden_size)
            least = scores.fixed_bytes / scores.whole_bytes
            if self.share <= least:
                bits = self.experts(layer.ffn, spec.hidden_size).router_bits
                raise RecipeError(
                    f"distill: at.share is {self.share}, and in layer {i} the {bits} high bits "
                    f"that route are {least:.3f} of the FFN's bytes; raise at.share or lower at.bits"
                )

    def experts(self, ffn: FFNSpec, hidden: int) -> ExpertSpec:
        """The experts that `moefy` would make."""
        return self.as_moefy.experts(ffn, hidden)

    @property
    def as_moefy(self) -> MoefySettings:
        """The experts that the tier will have."""
        return MoefySettings(
            expert_size=1, router="bit_planes", bits=self.bits, refined_bits=self.refined_bits,
            compensate=self.compensate, tiers={"at": min(self.share, _ALMOST_ALL)},
        )  # fmt: skip

    def scores(self, ffn: FFNSpec, hidden: int) -> PlaneScores:
        """What a layer's parts cost, with no score seen yet."""
        experts = self.experts(ffn, hidden)
        return PlaneScores.unseen(ffn_shape(ffn, hidden), experts.router_bits, experts.refined_bits)


class TierLesson(Lesson):
    """Gives a model FFNs that can compute at the tier, and has a part of each batch computed there.

    How many neurons of each layer the tier touches is found once, from the scores of the model as it comes.
    """

    def __init__(self, model: Transformer, settings: TierSettings, workshop: Workshop) -> None:
        self._settings, self._workshop, self._ffns = settings, workshop, list[TierFFN]()
        windows, hidden = workshop.calibration.windows, model.spec.hidden_size
        importance = neuron_importance(model, windows, workshop.seed, self._teller("importance of neurons"))
        for layer, spec, each in zip(model.layers, model.spec.layers, importance, strict=True):
            if isinstance(layer, Layer):
                ffn, experts = spec.ffn, settings.experts(spec.ffn, hidden)
                device = layer.ffn_norm.weight.device
                twin = TierFFN.of(
                    layer.ffn, hidden, ffn, experts, each.to(device), settings.as_moefy.compensates(ffn.gated)
                )
                layer.ffn = twin
                self._ffns.append(twin)
        self._share_out(model, windows.to(model.norm.weight.device))

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """First the rows at the tier, then those in full."""
        at_tier = max(1, round(self._settings.mix * len(rows)))
        for sparse, group in ((True, rows[:at_tier]), (False, rows[at_tier:])):
            for ffn in self._ffns:
                ffn.at_tier = sparse
            if len(group):
                yield group

    def _share_out(self, model: Transformer, windows: Tensor) -> None:
        """What each layer touches, as the thresholds that spend the tier's bytes bring it about."""
        seen = [self._settings.scores(layer.ffn, model.spec.hidden_size) for layer in model.spec.layers]

        def watch(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
            for x in given:
                seen[index].add(self._ffns[index].foreseen(x.flatten(0, -2)).scores)

        model.prepare()
        walk(model, windows, watch, progress=self._teller("scores of neurons"))
        thresholds = thresholds_for(seen, self._settings.share, self._settings.allocation)
        for ffn, scores, threshold in zip(self._ffns, seen, thresholds, strict=True):
            ffn.touched, ffn.ratio = scores.shares_at(threshold)[2], scores.ratio

    def _teller(self, what: str) -> Any:
        return lambda done, of: self._workshop.progress(f"distill: {what}", done, of)
