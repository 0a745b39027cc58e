"""Learning from the original: what every stage that trains has in common, down to how a killed run goes on."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ...models.checkpoint import load_transformer
from ...models.devices import multiplies_bf16
from ...models.errors import RecipeError
from ...models.files import write_whole
from ...models.finite import NotFinite, check_range, naming
from ...models.spec import INT8_FORMATS, TransformerSpec
from ...models.transformer import Transformer
from ..material import Workshop
from ..schedule import Plan, learning_rate
from ..strict import Strict
from ..windows import Batch
from .loss import forward_kl, hidden_ratio
from .student import Student, last_state

COST = 4  # a token learned from costs as much as three that are read, and its teacher reads it once
_FINAL_SHARE, _WARMUP_STEPS, _CLIP = 0.1, 100, 1.0
_MICRO_TOKENS = {"cpu": 1024, "cuda": 16384}  # of one backward pass
_HEAD_ROWS = {"cpu": 256, "cuda": 4096}  # tokens whose logits are in memory at once
_MOST_TOKENS = 1_000_000_000
_LARGE = 1e6  # no model learns with such weights
_EDGE = 5  # steps, at most, that the first and the last loss are means of


class LossWeights(Strict):
    """logits: KL from the original's distribution. hidden: squared distance of the last states, relative.

    An encoder has no logits: of one, `hidden` is 1 where nothing is said.
    """

    logits: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    hidden: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class TrainingSettings(Strict):
    """tokens: learned from in all, drawn from the calibration text. learn: which weights.

    batch: windows a step. Rate: warm-up, then a cosine to a tenth of `lr`. save_every: steps between saved states.
    """

    tokens: int
    losses: LossWeights = LossWeights()
    lr: float = 1e-4
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    batch: int = Field(default=8, ge=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    learn: Literal["all", "ffn", "ffn_down"] = "all"
    save_every: int = Field(default=20, ge=1)

    @field_validator("tokens", mode="after")
    @classmethod
    def _some_tokens(cls, tokens: int) -> int:
        if not 1 <= tokens <= _MOST_TOKENS:
            raise ValueError(f"is {tokens}; it must be from 1 to {_MOST_TOKENS:,}, such as 262144")
        return tokens

    @field_validator("lr", mode="after")
    @classmethod
    def _sensible_rate(cls, lr: float) -> float:
        if not 0 < lr <= 1:
            raise ValueError(f"is {lr}; it must be a rate above 0 and at most 1, such as 1.0e-4")
        return lr


class Lesson:
    """What a stage adds to plain distillation. This one adds nothing."""

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """The rows of a batch in groups; before each is taken, the model is put as it shall compute that group."""
        yield rows

    def extra(self, progress: float) -> Tensor | None:
        """What the last forward pass adds to the loss; progress goes from 0, at the first step, towards 1."""
        return None


@dataclass(frozen=True, slots=True)
class Trainer:
    """Teaches a model to say what the recipe's model says (Hinton, Vinyals and Dean 2015).

    name: of the stage, for people. Arithmetic is bf16 where that is quick (`multiplies_bf16`), else fp32.
    """

    name: str
    settings: TrainingSettings
    workshop: Workshop

    @property
    def device(self) -> torch.device:
        return self.workshop.device

    def teach(self, model: Transformer, lesson: Lesson) -> dict[str, Any]:
        """All steps that are left; the notes: losses of the first and last steps without what the lesson added.

        Raises RecipeError where the loss is no number any more.
        """
        teacher = load_transformer(self.workshop.original, self.device)
        student = Student(model, _learned_names(model, self.settings.learn), self.settings.weight_decay)
        losses = self._learn(student, teacher, lesson)
        edge = max(1, min(_EDGE, len(losses) // 2))
        return {
            "first_loss": _mean(losses[:edge]), "last_loss": _mean(losses[-edge:]), "steps": len(losses),
            "device": self.device.type,
        }  # fmt: skip

    def _learn(self, student: Student, teacher: Transformer, lesson: Lesson) -> list[float]:
        """The loss of each step from the first on, those of a run that was cut off too."""
        workshop, settings = self.workshop, self.settings
        per_step = settings.batch * workshop.calibration.length
        steps = max(1, round(settings.tokens / per_step))
        needed = steps * per_step if steps > 1 else min(settings.tokens, per_step)  # a batch may be larger than all
        windows = torch.split(workshop.calibration.stream(needed), settings.batch)
        losses = _resumed(student, workshop.scratch)
        if not losses:
            self._check_range((teacher, student.model), windows[0][:1])
        for step in range(len(losses), steps):
            losses.append(self._step(student, teacher, windows[step], lesson, step / steps))
            self._move(student, step, learning_rate(Plan(steps), step, settings.lr, _FINAL_SHARE, _WARMUP_STEPS))
            workshop.progress(f"{self.name}: {_told(student.model, losses[-1])}", step + 1, steps)
            if (step + 1) % settings.save_every == 0 and step + 1 < steps:
                _save(student, losses, workshop.scratch)
        return losses

    def _step(self, student: Student, teacher: Transformer, rows: Tensor, lesson: Lesson, progress: float) -> float:
        """Gradients of a batch, a few windows at a time; the mean loss before the step.

        progress: 0 at the first step, before which nothing was learned.
        """
        total, micro = 0.0, max(1, _MICRO_TOKENS[self.device.type] // rows.shape[1])
        for group in lesson.parts(rows):
            for part in torch.split(group.to(self.device), micro):
                loss = self._loss(student.model, teacher, part)
                extra = lesson.extra(progress)
                whole = loss if extra is None else loss + extra
                share = len(part) / len(rows)
                (whole * share).backward()  # type: ignore[no-untyped-call]
                total += loss.item() * share
        if not math.isfinite(total):
            if not progress:
                self._check_range((student.model, teacher), rows)
            raise self._out_of_range(f"loss, {total},", not progress)
        return total

    def _move(self, student: Student, step: int, rate: float) -> None:
        """Along the gradients. Where they are no numbers: CheckpointError for weights that were so from the start."""
        try:
            student.step(rate, _CLIP)
        except NotFinite as error:
            if not step and max(float(each.detach().abs().max()) for each in student.parameters.values()) > _LARGE:
                with naming(student.model, "layers"):
                    raise
            raise self._out_of_range("gradient", not step) from error

    def _check_range(self, models: Sequence[Transformer], rows: Tensor) -> None:
        batch, _ = self._batch(models[0], rows)
        with self._in_bf16():
            for model in models:
                check_range(model, batch.ids, batch.sources)

    def _out_of_range(self, what: str, at_first: bool) -> RecipeError:
        """At first nothing was learned yet, so that the rate is not at fault."""
        settings = self.settings
        given = f"lr {settings.lr:g}, losses {settings.losses.model_dump()}, temperature {settings.temperature:g}"
        way_out = "bring losses and temperature nearer to 1" if at_first else "lower lr"
        return RecipeError(f"{self.name}: the {what} is no finite number with {given}; {way_out}")

    def _loss(self, model: Transformer, teacher: Transformer, rows: Tensor) -> Tensor:
        weights = self.settings.losses
        batch, counts = self._batch(model, rows)
        with torch.inference_mode():
            states = teacher.hidden(batch.ids, context=batch.context(teacher))
        theirs = states.clone()
        with self._in_bf16():
            ours = model.hidden(batch.ids, context=batch.context(model))
            if not model.spec.causal:
                return (weights.hidden or 1.0) * hidden_ratio(ours, theirs)
            loss = weights.logits * forward_kl(
                ours, model.head, theirs, teacher.head, counts, self.settings.temperature,
                rows=_HEAD_ROWS[self.device.type],
            )  # fmt: skip
        return loss + weights.hidden * hidden_ratio(ours, theirs, counts) if weights.hidden else loss

    def _in_bf16(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=multiplies_bf16(self.device))

    def _batch(self, model: Transformer, rows: Tensor) -> tuple[Batch, Tensor | None]:
        """What is learned from, and which tokens count: of rows that an encoder reads, the original's answers."""
        if model.spec.reads_sources:
            return self.workshop.calibration.answers.padded(rows, self.device)
        return Batch(rows.to(self.device)), None


def refuse_int8(name: str, spec: TransformerSpec) -> None:
    """Raises RecipeError where weights are int8: they have no gradient."""
    linears = ((layer.attention.query, layer.ffn.up, layer.ffn.down) for layer in spec.layers)
    formats = {spec.embedding, spec.head, *(each for layer in linears for each in layer)}
    if not formats.isdisjoint(INT8_FORMATS):
        raise RecipeError(f"{name}: this model has int8 weights, which cannot learn; {name} before quantize")


def refuse_losses(name: str, spec: TransformerSpec, settings: TrainingSettings) -> None:
    """Raises RecipeError where an encoder is to learn by what it has none of."""
    said = ["losses.logits"] if "logits" in settings.losses.model_fields_set and settings.losses.logits else []
    said += ["temperature"] if "temperature" in settings.model_fields_set else []
    if said and not spec.causal:
        raise RecipeError(
            f"{name}: {said[0]} is of logits, and this model is an encoder, which has none; leave it out, and it "
            "learns the original's last states"
        )


def _told(model: Transformer, loss: float) -> str:
    return f"KL {loss:.4f} nats a token" if model.spec.causal else f"states {loss:.4f} off"


def _learned_names(model: Transformer, learn: str) -> list[str]:
    part, last = {"all": ("", ""), "ffn": (".ffn.", ""), "ffn_down": (".ffn.", ".down.")}[learn]
    return [name for name, _ in model.named_parameters() if part in name and last in name]


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
    write_whole(scratch / f"losses-{step}.json", json.dumps(losses).encode())
    student.save(scratch / f"step-{step}")
    for folder in scratch.glob("step-*"):
        if folder.name != f"step-{step}":
            shutil.rmtree(folder, ignore_errors=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
