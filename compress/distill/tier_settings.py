"""What a recipe says of the tier that a model learns, and what follows from it for a model."""

from typing import Self

from pydantic import Field, model_validator

from ...models.errors import RecipeError
from ...models.spec import GRADED_FORMATS, ExpertSpec, FFNSpec, TransformerSpec
from ..moefy.budget import Allocation, PlaneScores
from ..moefy.input_tiers import graded_paths, least_share, linear_formats
from ..moefy.settings import Grain, MoefySettings, ffn_shape
from ..quantize.stage import QuantizeSettings, QuantizeStage
from ..strict import Strict

_ALMOST_ALL = 0.99  # of the bytes: a tier has less than all
_OF_NEURONS = ("bits", "refined_bits", "allocation", "compensate")
TO_INT8 = QuantizeStage(QuantizeSettings(linears="int8"))  # what gives the tier its weights


class TierSettings(Strict):
    """share: of the bytes that tiers govern, as a tier of `moefy` has it; grain, keep, bits, refined_bits, allocation
    and compensate likewise. Grain and keep are those of the recipe's `moefy` where they are not named; the rest is as
    `moefy` would choose it for a lowest tier of this share.

    mix: the part of each batch that is computed at the tier; the rest is computed in full, so that the full tier stays
    what it is.
    """

    share: float = Field(gt=0, le=1)
    grain: Grain | None = None
    keep: list[str] = []
    bits: int | None = Field(default=None, ge=1, le=7)
    refined_bits: int | None = Field(default=None, ge=2, le=8)
    allocation: Allocation | None = None
    mix: float = Field(default=0.5, gt=0, le=1)
    compensate: bool | None = None

    @model_validator(mode="after")
    def _of_one_grain(self) -> Self:
        if self.grain == "inputs" and self._of_neurons:
            raise ValueError(
                f"grain is 'inputs', and {self._of_neurons[0]} is a setting of neurons; leave one of them out"
            )
        if self.keep and (self._of_neurons or self.grain not in (None, "inputs")):
            raise ValueError("keep is for grain: inputs; neurons leave all linears but the FFN's as they are")
        return self

    def following(self, moefy: MoefySettings) -> "TierSettings":
        """With the grain of the recipe's `moefy`, and what that keeps, where nothing is said of it here."""
        own = self.as_moefy.named_grain
        keep = self.keep or (moefy.keep if own in (None, "inputs") else [])
        return self.model_copy(update={"grain": own or moefy.named_grain, "keep": keep})

    def grain_of(self, spec: TransformerSpec) -> Grain:
        """What the tier chooses among: that which is named, or what `moefy` would choose among."""
        return self.as_moefy.grain_of(spec)

    def check(self, spec: TransformerSpec) -> None:
        """Raises RecipeError for a grain that cannot learn, and for a share that is gone before a weight is read."""
        if self.grain_of(spec) == "inputs":
            self._check_inputs(spec)
        elif self.grain_of(spec) == "neurons":
            self._check_neurons(spec)
        else:
            raise RecipeError(
                "distill: at trains inputs, or experts of one neuron, and moefy makes tiles; choose grain: inputs or "
                "expert_size: 1 for moefy, or leave at out"
            )

    def check_end(self, own: TransformerSpec, end: TransformerSpec) -> None:
        """Raises RecipeError where a recipe's tiers are of another kind. own: what learns; end: what comes out."""
        trained, made = self.grain_of(own), _made(end)
        if made and made != trained:
            named = [*self._of_neurons, *(name for name in ("keep", "grain") if getattr(self, name))]
            way_out = f"leave at.{named[0]} out" if named else f"say at.grain: {made}, or put relufy before distill"
            raise RecipeError(f"distill: at trains {trained}, and moefy makes tiers of {made}; {way_out}")
        if made == "inputs":
            self._check_keep(own, end)

    def experts(self, ffn: FFNSpec, hidden: int) -> ExpertSpec:
        """The experts that `moefy` would make."""
        return self.as_moefy.experts(ffn, hidden)

    @property
    def as_moefy(self) -> MoefySettings:
        """What the tier will be."""
        return MoefySettings(
            grain=self.grain, keep=self.keep, bits=self.bits, refined_bits=self.refined_bits,
            allocation=self.allocation, compensate=self.compensate, tiers={"at": min(self.share, _ALMOST_ALL)},
        )  # fmt: skip

    def scores(self, ffn: FFNSpec, hidden: int) -> PlaneScores:
        """What a layer's parts cost, with no score seen yet."""
        experts = self.experts(ffn, hidden)
        return PlaneScores.unseen(ffn_shape(ffn, hidden), experts.router_bits, experts.refined_bits)

    @property
    def _of_neurons(self) -> list[str]:
        return [name for name in _OF_NEURONS if getattr(self, name) is not None]

    def _check_inputs(self, spec: TransformerSpec) -> None:
        int8 = TO_INT8.plan(spec)
        least = least_share(int8, graded_paths(int8, self.keep, "distill: at.keep"))
        if self.share <= least:
            raise RecipeError(
                f"distill: at.share is {self.share}, and what says which bits to read takes {least:.3f} of the "
                "linears' bytes; raise at.share"
            )

    def _check_keep(self, own: TransformerSpec, end: TransformerSpec) -> None:
        trained = graded_paths(TO_INT8.plan(own), self.keep, "distill: at.keep")
        for path, kind in linear_formats(end).items():
            if path not in trained and kind in GRADED_FORMATS:
                raise RecipeError(f"distill: at.keep has {path}, which the recipe grades; take it out of at.keep")
            if path in trained and kind not in GRADED_FORMATS:
                raise RecipeError(f"distill: at grades {path}, which the recipe keeps whole; add it to at.keep")

    def _check_neurons(self, spec: TransformerSpec) -> None:
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


def _made(end: TransformerSpec) -> Grain | None:
    """What the tiers of a model choose among; None where it has none."""
    sizes = {layer.ffn.experts.size for layer in end.layers} - {0}
    if end.is_graded:
        return "inputs"
    return None if not sizes else "neurons" if sizes == {1} else "tiles"
