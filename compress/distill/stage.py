"""The stage `distill`: the model learns to say what the original says, in full or at a tier as well."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...kernels.graded.bytes import PLANES
from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import RecipeError
from ...models.spec import TransformerSpec
from ..calibration import Calibration
from ..material import Material, Workshop
from ..moefy.importance import importance_fit
from ..moefy.input_tiers import graded_passes
from ..moefy.stage import MoefyStage
from ..moefy.tiers import THRESHOLDS
from ..stage import Fit, Stage
from .recovery import lesson_at
from .student import learned_tensors, trainable
from .tier_settings import TierSettings
from .training import COST, Lesson, Trainer, TrainingSettings, refuse_int8, refuse_losses


class DistillSettings(TrainingSettings):
    """at: a tier that learns too, so that less is lost there; by default the model learns in full alone."""

    at: TierSettings | None = None


@dataclass(frozen=True, slots=True)
class DistillStage(Stage):
    """Distillation from the model that the recipe was given: of its logits (Hinton, Vinyals and Dean 2015), of an
    encoder of its last states (Jiao et al. 2020, TinyBERT, section 3.1).
    """

    name = "distill"
    settings_type = DistillSettings
    changes_model = True
    takes_mixtures = True

    settings: DistillSettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """int8 weights are refused, losses that the model has none of, and a tier that cannot be."""
        refuse_int8("distill", spec)
        refuse_losses("distill", spec, self.settings)
        if self.settings.at and spec.reads_sources:
            raise RecipeError(
                "distill: at is a tier that learns, which a decoder that answers sources does not; leave at out, and "
                "the model learns in full"
            )
        if self.settings.at and spec.is_mixture:
            raise RecipeError("distill: at is a tier, and mixtures of experts have none; leave it out")
        if self.settings.at:
            self.settings.at.check(spec)
        return spec

    def check_end(self, own: TransformerSpec, end: TransformerSpec) -> None:
        if self.settings.at:
            self.settings.at.check_end(own, end)

    def beside(self, stages: Sequence[Stage]) -> "DistillStage":
        """The tier that learns is of the kind that the recipe's `moefy` makes."""
        moefy = next((stage.settings for stage in stages if isinstance(stage, MoefyStage)), None)
        if self.settings.at is None or moefy is None:
            return self
        return DistillStage(self.settings.model_copy(update={"at": self.settings.at.following(moefy)}))

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        """At a tier of inputs every linear is computed once a level, where it is computed once in full."""
        at = self.settings.at
        if at is None or at.grain_of(spec) != "inputs":
            return self.settings.tokens * COST
        return self.settings.tokens * (COST + at.mix * (len(PLANES) - 1)) + graded_passes(1, calibration)

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        if self.settings.at is None:
            return ()
        by_inputs = self.settings.at.grain_of(spec) == "inputs"
        return (THRESHOLDS,) if by_inputs else (THRESHOLDS, importance_fit(spec.hidden_size))

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        trainer = Trainer("distill", self.settings, workshop)
        model = trainable(source.spec, read_tensors(source)).to(trainer.device)
        at = self.settings.at
        notes = trainer.teach(model, Lesson() if at is None else lesson_at(source, model, at, workshop))
        return Material(source.spec, lambda: learned_tensors(model, workshop), notes=notes)
