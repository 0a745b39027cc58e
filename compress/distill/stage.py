"""The stage `distill`: the model learns to say what the original says, in full or at a tier as well."""

from dataclasses import dataclass

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.spec import TransformerSpec
from ..calibration import Calibration
from ..material import Material, Workshop
from ..moefy.importance import importance_fit
from ..moefy.tiers import THRESHOLDS
from ..stage import Fit, Stage
from .recovery import TierLesson, TierSettings
from .student import learned_tensors, trainable
from .training import COST, Lesson, Trainer, TrainingSettings, accelerator, refuse_int8


class DistillSettings(TrainingSettings):
    """at: a tier that learns too, so that less is lost there; by default the model learns in full alone."""

    at: TierSettings | None = None


@dataclass(frozen=True, slots=True)
class DistillStage(Stage):
    """Logit distillation from the model that the recipe was given (Hinton, Vinyals and Dean 2015)."""

    name = "distill"
    settings_type = DistillSettings
    changes_model = True

    settings: DistillSettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """int8 weights are refused, and a tier that cannot be."""
        refuse_int8("distill", spec)
        if self.settings.at:
            self.settings.at.check(spec)
        return spec

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return self.settings.tokens * COST

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        return () if self.settings.at is None else (THRESHOLDS, importance_fit(spec.hidden_size))

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        trainer = Trainer("distill", self.settings, workshop, accelerator())
        model = trainable(source.spec, read_tensors(source)).to(trainer.device)
        at = self.settings.at
        notes = trainer.teach(model, Lesson() if at is None else TierLesson(model, at, workshop))
        return Material(source.spec, lambda: learned_tensors(model, workshop), notes=notes)
