"""The stage `distill`: the model learns to say what the original says."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...models.checkpoint import Checkpoint, load_transformer
from ...models.errors import RecipeError
from ...models.schedule import Plan, learning_rate
from ...models.spec import INT8_FORMATS, TransformerSpec
from ...models.transformer import Transformer
from ..calibration import Calibration
from ..material import Material, Workshop
from ..strict import Strict
from .loss import forward_kl, hidden_ratio
from .student import Student, as_stored, last_state, trainable

_BACKWARD = 3  # a token learned from costs as much as three that are read, and its teacher reads it once
_FINAL_SHARE, _WARMUP_STEPS, _CLIP = 0.1, 100, 1.0
_MICRO_TOKENS = 1024  # of one backward pass


class LossWeights(Strict):
    """logits: KL from the original's distribution. hidden: squared distance of the last states, relative."""

    logits: float = Field(default=1.0, ge=0)
    hidden: float = Field(default=0.0, ge=0)


class DistillSettings(Strict):
    """tokens: learned from in all, drawn from the calibration text. learn: which weights.

    batch: windows a step. Rate: warm-up, then a cosine to a tenth of `lr`. save_every: steps between saved states.
    """

    tokens: int = Field(ge=1)
    losses: LossWeights = LossWeights()
    lr: float = Field(default=1e-4, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    batch: int = Field(default=8, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    learn: Literal["all", "ffn", "ffn_down"] = "all"
    save_every: int = Field(default=20, ge=1)


@dataclass(frozen=True, slots=True)
class DistillStage:
    """Logit distillation from the model that the recipe was given (Hinton, Vinyals and Dean 2015)."""

    settings: DistillSettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """int8 weights are refused: they have no gradient."""
        if _has_int8(spec):
            raise RecipeError("distill: this model has int8 weights, which cannot learn; distill before quantize")
        return spec

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return self.settings.tokens * (_BACKWARD + 1)

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        teacher = load_transformer(workshop.original, torch.device("cpu"))
        model = trainable(source)
        student = Student(model, _learned_names(model, self.settings.learn), self.settings.weight_decay)
        losses = self._learn(student, teacher, workshop)
        notes = {"first_loss": _mean(losses[:5]), "last_loss": _mean(losses[-5:]), "steps": len(losses)}
        return Material(source.spec, lambda: as_stored(model, source), notes=notes)

    def _learn(self, student: Student, teacher: Transformer, workshop: Workshop) -> list[float]:
        """All steps that are left; the loss of each step from the first on."""
        per_step = self.settings.batch * workshop.calibration.length
        steps = max(1, round(self.settings.tokens / per_step))
        windows = torch.split(workshop.calibration.stream(steps * per_step), self.settings.batch)
        losses = _resumed(student, workshop.scratch)
        for step in range(len(losses), steps):
            losses.append(self._step(student, teacher, windows[step]))
            student.step(learning_rate(Plan(steps), step, self.settings.lr, _FINAL_SHARE, _WARMUP_STEPS), _CLIP)
            workshop.progress(f"distill: KL {losses[-1]:.4f} nats a token", step + 1, steps)
            if (step + 1) % self.settings.save_every == 0 and step + 1 < steps:
                _save(student, losses, workshop.scratch)
        return losses

    def _step(self, student: Student, teacher: Transformer, rows: Tensor) -> float:
        """Gradients of a batch, a few windows at a time; the mean loss before the step."""
        total = 0.0
        for part in torch.split(rows, max(1, _MICRO_TOKENS // rows.shape[1])):
            with torch.inference_mode():
                theirs = teacher.hidden(part)
            loss = self._loss(student.model, teacher, part, theirs.clone()) * (len(part) / len(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def _loss(self, model: Transformer, teacher: Transformer, rows: Tensor, theirs: Tensor) -> Tensor:
        weights = self.settings.losses
        with torch.autocast("cpu", torch.bfloat16):
            ours = model.hidden(rows)
            loss = weights.logits * forward_kl(
                ours, model.head, theirs, teacher.head, temperature=self.settings.temperature
            )
        return loss + weights.hidden * hidden_ratio(ours, theirs) if weights.hidden else loss


def _has_int8(spec: TransformerSpec) -> bool:
    linears = ((layer.attention.query, layer.ffn.up, layer.ffn.down) for layer in spec.layers)
    formats = {spec.embedding, spec.head, *(each for layer in linears for each in layer)}
    return not formats.isdisjoint(INT8_FORMATS)


def _learned_names(model: Transformer, learn: str) -> list[str]:
    part = {"all": "", "ffn": ".ffn.", "ffn_down": ".ffn.down."}[learn]
    return [name for name, _ in model.named_parameters() if part in name]


def _resumed(student: Student, scratch: Path) -> list[float]:
    """The losses so far of a run that was cut off, its student put back; none for a fresh one."""
    found = last_state(scratch)
    if found is None:
        return []
    step, folder = found
    student.load(folder, step)
    losses: list[float] = json.loads((scratch / f"losses-{step}.json").read_bytes())
    return losses


def _save(student: Student, losses: Sequence[float], scratch: Path) -> None:
    """The losses first: a state without them would not be found whole."""
    step = len(losses)
    (scratch / f"losses-{step}.json").write_text(json.dumps(losses))
    student.save(scratch / f"step-{step}")
    for folder in scratch.glob("step-*"):
        if folder.name != f"step-{step}":
            shutil.rmtree(folder, ignore_errors=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
