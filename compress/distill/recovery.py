"""Distillation at a tier: what int8 bit planes lose by computing fewer neurons is learned away before they exist."""

from collections.abc import Iterator

from pydantic import Field
from torch import Tensor

from ...kernels.plane_ffn import plane_ffn_bytes
from ...models.errors import RecipeError
from ...models.spec import FFNSpec, TransformerSpec
from ...models.transformer import Layer, Transformer
from ..moefy.settings import MoefySettings
from ..strict import Strict
from .sparse_ffn import TierFFN, TierShares
from .training import Lesson


class TierSettings(Strict):
    """share: of the FFN's int8 bytes, as a tier of `moefy` has it; bits and fine likewise, None as chosen there.

    mix: the part of each batch that is computed at the tier; the rest is computed in full, so that the full tier stays
    what it is. compensate: as in `moefy`. Every layer computes the same share of its neurons.
    """

    share: float = Field(gt=0, le=1)
    bits: int | None = Field(default=None, ge=1, le=7)
    fine: float | None = Field(default=None, ge=0, le=1)
    mix: float = Field(default=0.5, gt=0, le=1)
    compensate: bool = True

    def check(self, spec: TransformerSpec) -> None:
        """Raises RecipeError for a share that its router alone would use up, and for experts of several neurons."""
        for i, layer in enumerate(spec.layers):
            if layer.ffn.experts.size > 1:
                raise RecipeError(
                    f"distill: at trains experts of one neuron, these have {layer.ffn.experts.size}; "
                    "choose expert_size: 1, or leave at out"
                )
            bits, hidden = self._experts(layer.ffn)[0], spec.hidden_size
            least = plane_ffn_bytes(hidden, layer.ffn.width, layer.ffn.gated, bits, 0, 0) / _whole(layer.ffn, hidden)
            if self.share <= least:
                raise RecipeError(
                    f"distill: at.share is {self.share}, and in layer {i} the {bits} high bits that route are "
                    f"{least:.3f} of the FFN's bytes; raise at.share or lower at.bits"
                )

    def shares(self, ffn: FFNSpec, hidden: int) -> TierShares:
        """The neurons of a layer that its bytes pay for, as `calibrate` will choose them."""
        bits, fine = self._experts(ffn)
        fixed = plane_ffn_bytes(hidden, ffn.width, ffn.gated, bits, 0, 0)
        down, low = hidden * ffn.width, _whole(ffn, hidden) - fixed - hidden * ffn.width
        left = self.share * _whole(ffn, hidden) - fixed
        active = left / (down + fine * low)
        if active <= 1:
            return TierShares(bits, active, fine * active, self.compensate)
        return TierShares(bits, 1.0, min(1.0, (left - down) / low), self.compensate)

    def _experts(self, ffn: FFNSpec) -> tuple[int, float]:
        """(high bits, which part of the computed neurons is exact)"""
        chosen = MoefySettings(expert_size=1, router="bit_planes", bits=self.bits, fine=self.fine)
        return chosen.experts(ffn).router_bits, chosen.fine_part(ffn.gated)


class TierLesson(Lesson):
    """Gives a model FFNs that can compute at the tier, and has a part of each batch computed there."""

    def __init__(self, model: Transformer, settings: TierSettings) -> None:
        self._mix, self._ffns = settings.mix, []
        for layer, spec in zip(model.layers, model.spec.layers, strict=True):
            if isinstance(layer, Layer):
                hidden = model.spec.hidden_size
                layer.ffn = twin = TierFFN.of(layer.ffn, hidden, spec.ffn, settings.shares(spec.ffn, hidden))
                self._ffns.append(twin)

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """First the rows at the tier, then those in full."""
        at_tier = max(1, round(self._mix * len(rows)))
        for sparse, group in ((True, rows[:at_tier]), (False, rows[at_tier:])):
            for ffn in self._ffns:
                ffn.at_tier = sparse
            if len(group):
                yield group


def _whole(ffn: FFNSpec, hidden: int) -> float:
    return plane_ffn_bytes(hidden, ffn.width, ffn.gated, 8, ffn.width, ffn.width)
