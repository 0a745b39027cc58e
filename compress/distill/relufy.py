"""The stage `relufy`: FFNs get ReLU in place of their activation, and learn to say what the original says."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import RecipeError
from ...models.spec import LayerSpec, TransformerSpec
from ..calibration import Calibration
from ..material import Material, Workshop
from ..stage import Stage
from .sparsity import MEASURES, SparsityLesson, activity
from .student import learned_tensors, trainable
from .training import COST, Lesson, Trainer, TrainingSettings, refuse_int8, refuse_losses

_WATCHED_TOKENS = 4096  # that the sparsity is measured on
RELU = "relu"


class RelufySettings(TrainingSettings):
    """activation: `relu` replaces the one there is; `keep` presses for sparsity alone.

    sparsity: weight of the pressure, beside the KL in nats; penalty: its measure, the squared Hoyer ratio over the
    width or the mean magnitude; schedule: whether the weight rises from 0 to the end. shift: neurons start with
    relu(x - shift), a bias that learns with them (ProSparse, section 3.3).
    """

    activation: Literal["relu", "keep"] = "relu"
    sparsity: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    penalty: Literal["hoyer", "l1"] = "hoyer"
    schedule: Literal["rising", "constant"] = "rising"
    shift: float = Field(default=0.0, ge=0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class RelufyStage(Stage):
    """SwiGLU becomes relu(gate x) * up x, GELU becomes ReLU (Mirzadeh et al. 2023, ReLU Strikes Back, section 4)."""

    name = "relufy"
    settings_type = RelufySettings
    changes_model = True

    settings: RelufySettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """Raises RecipeError for a model that is ReLU already, for experts, and for int8 weights."""
        refuse_int8("relufy", spec)
        refuse_losses("relufy", spec, self.settings)
        if spec.reads_sources:
            raise RecipeError(
                "relufy: the files of a model with an encoder and a decoder name one activation for both, and it "
                "changes the decoder's alone; leave it out: a recipe for such a model has prune, distill, moefy and "
                "quantize"
            )
        if any(layer.ffn.experts.size for layer in spec.layers):
            raise RecipeError(
                "relufy: this model has experts, whose order fits the activation that it has; relufy before moefy"
            )
        is_relu = all(layer.ffn.activation == RELU for layer in spec.layers)
        if self.settings.activation == RELU and is_relu:
            raise RecipeError(
                "relufy: the activation of every FFN is relu already; leave the stage out, "
                "or press for more zeros with activation: keep"
            )
        if self.settings.activation == "keep":
            self._check_kept(is_relu)
        return replace(spec, layers=tuple(self._layer(layer) for layer in spec.layers))

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return self.settings.tokens * COST + 2 * _WATCHED_TOKENS

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        trainer, spec = Trainer("relufy", self.settings, workshop), self.plan(source.spec)
        windows = workshop.calibration.windows
        windows = windows[: max(1, _WATCHED_TOKENS // windows.shape[1])].to(trainer.device)
        before = activity(workshop.load(source), windows)
        model = trainable(spec, self._tensors(source, spec)).to(trainer.device)
        lesson = Lesson()
        if self.settings.sparsity:
            measure = MEASURES[self.settings.penalty]
            lesson = SparsityLesson(model, self.settings.sparsity, measure, self.settings.schedule == "rising")
        notes: dict[str, Any] = trainer.teach(model, lesson)
        model.prepare()
        notes |= {"before": before, "after": activity(model, windows)}
        return Material(spec, lambda: learned_tensors(model, workshop), notes=notes)

    def _check_kept(self, is_relu: bool) -> None:
        if not self.settings.sparsity:
            raise RecipeError(
                "relufy: activation: keep with sparsity: 0 is a plain distillation; give sparsity, such as 0.5, "
                "or use the stage distill"
            )
        if self.settings.shift and not is_relu:
            raise RecipeError("relufy: shift moves the threshold of a ReLU; choose activation: relu or leave shift out")

    def _layer(self, layer: LayerSpec) -> LayerSpec:
        """The layer after the swap; with a shift it has biases everywhere, which is how families can say it."""
        activation = RELU if self.settings.activation == RELU else layer.ffn.activation
        shifted = self.settings.shift > 0
        return replace(
            layer,
            ffn=replace(
                layer.ffn, activation=activation, bias=layer.ffn.bias or shifted,
                output_bias=layer.ffn.output_bias or shifted,
            ),
        )  # fmt: skip

    def _tensors(self, source: Checkpoint, spec: TransformerSpec) -> Iterator[tuple[str, Tensor]]:
        """The source's, with biases of 0 where there were none, and the shift taken off those in front of the ReLU."""
        biases: dict[str, Tensor] = {}
        for i, layer in enumerate(spec.layers if self.settings.shift else ()):
            gate = {"gate": layer.ffn.width} if layer.ffn.gated else {}
            for name, size in {"up": layer.ffn.width, "down": spec.hidden_size, **gate}.items():
                biases[f"layers.{i}.ffn.{name}.bias"] = torch.zeros(size)
        for name, tensor in read_tensors(source):
            if name in biases:
                biases[name] = tensor.float()
            else:
                yield name, tensor
        for name, value in biases.items():
            gated = spec.layers[int(name.split(".")[1])].ffn.gated
            before_relu = ".gate." in name if gated else ".up." in name
            yield name, value - self.settings.shift if before_relu else value
