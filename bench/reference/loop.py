"""The steps of one process: learn, validate, plan, report, save, until the plan ends or someone asks to stop."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ...compress.schedule import Plan, learning_rate
from .corpus import Corpus, Say, WindowOrder, even_windows
from .description import Description
from .learner import Learner
from .model import count_parameters
from .state import RunState, last_state, load_state, save_state
from .stop import StopRequest

_SPEED_STEPS = 20  # before the speed is believed
_REPLAN_SECONDS = 30.0
_PRINT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Limit:
    """When a run ends: after the description's tokens, or sooner by one of these."""

    steps: int | None = None
    minutes: float | None = None

    def __str__(self) -> str:
        told = [f"{self.steps:,} steps"] if self.steps else []
        told += [f"{self.minutes:g} minutes"] if self.minutes else []
        return " or ".join(told) or "the description's tokens"


class _Pace:
    """Steps and seconds since the last mark."""

    def __init__(self, step: int) -> None:
        self.mark(step)

    def mark(self, step: int) -> None:
        self._step, self._time = step, time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._time

    def seconds_per_step(self, step: int) -> float:
        return self.seconds / max(step - self._step, 1)

    def steps(self, step: int) -> int:
        return step - self._step


class Loop:
    """The steps of one process."""

    def __init__(
        self, out: Path, description: Description, limit: Limit, corpus: Corpus, learner: Learner,
        save_seconds: float, say: Say,
    ) -> None:  # fmt: skip
        self._out, self._description, self._limit = out, description, limit
        self._learner, self._save_seconds, self._say = learner, save_seconds, say
        self._order = WindowOrder(corpus.train, description.context, description.batch, description.seed)
        self._valid = torch.from_numpy(even_windows(corpus.valid, description.context, description.valid_windows))
        self._tokens = description.batch * description.context
        self._most = min(-(-description.tokens // self._tokens), limit.steps or 1 << 62)
        self._progress = RunState(Plan(self._most))
        if (state := last_state(out)) is not None:
            self._progress = load_state(state, learner)
            say(f"goes on from step {self._progress.step:,}")
        self._device = learner.place.name
        step = self._progress.step
        self._said, self._planned, self._saved, self._counted = (_Pace(step) for _ in range(4))
        self._seconds_per_step = 0.0  # until it is known
        self._has_said = False

    def run(self) -> bool:
        """Steps to the end of the plan, saving; False where it was asked to stop before."""
        progress, place = self._progress, self._learner.place
        self._say(
            f"{count_parameters(self._description):,} parameters on {self._device}, {str(place.dtype)[6:]}, "
            f"{place.num_workers} workers, {self._tokens:,} tokens a step"
        )
        with StopRequest() as stop:
            while progress.step < progress.plan.last and not stop.requested:
                self._one_step()
                self._validate()
                self._count_seconds()
                self._replan()
                self._report()
                if self._saved.seconds > self._save_seconds:
                    save_state(self._out, self._learner, progress)
                    self._saved.mark(progress.step)
            save_state(self._out, self._learner, progress)
        finished = progress.step >= progress.plan.last
        self._say("finished" if finished else f"stopped, saved at step {progress.step:,}; the same command goes on")
        return finished

    def _one_step(self) -> None:
        rows = torch.from_numpy(self._order.rows(self._progress.step))
        self._progress.losses.append(self._learner.step(rows, self._rate()))
        self._progress.step += 1

    def _rate(self) -> float:
        to, progress = self._description, self._progress
        return learning_rate(progress.plan, progress.step, to.learning_rate, to.final_share, to.warmup_steps)

    def _validate(self) -> None:
        progress = self._progress
        due = progress.step % self._description.validate_every == 0 or progress.step == progress.plan.last
        if due and len(self._valid):
            loss = self._learner.mean_loss(self._valid)
            progress.valid.append([progress.step, loss])
            self._say(f"step {progress.step:,}: validation loss {loss:.4f}")

    def _count_seconds(self) -> None:
        so_far = self._progress.seconds.get(self._device, 0.0)
        self._progress.seconds[self._device] = so_far + self._counted.seconds
        self._counted.mark(self._progress.step)

    def _replan(self) -> None:
        """Lays the schedule over the minutes that are left: first when the speed is known, then to correct it."""
        progress, minutes = self._progress, self._limit.minutes
        is_first = not self._seconds_per_step
        if self._planned.steps(progress.step) < _SPEED_STEPS or not (
            is_first or self._planned.seconds > _REPLAN_SECONDS
        ):
            return
        latest = self._planned.seconds_per_step(progress.step)
        self._seconds_per_step = latest if is_first else (self._seconds_per_step + latest) / 2
        self._planned.mark(progress.step)
        if minutes is not None and progress.step < progress.plan.last:
            left = int((minutes * 60 - progress.total_seconds) / self._seconds_per_step)
            progress.plan = progress.plan.relaid(progress.step, min(left, self._most - progress.step))

    def _report(self) -> None:
        progress = self._progress
        is_edge = not self._has_said or progress.step >= progress.plan.last
        if self._said.seconds < _PRINT_SECONDS and not is_edge:
            return
        recent, pace = progress.losses[-20:], self._said.seconds_per_step(progress.step)
        left = (progress.plan.last - progress.step) * (self._seconds_per_step or pace)
        self._say(
            f"step {progress.step:,}/{progress.plan.last:,}, {progress.step * self._tokens / 1e6:.2f}M tokens, "
            f"{self._tokens / pace:,.0f} tokens/s, loss {sum(recent) / len(recent):.4f}, lr {self._rate():.2e}, "
            f"{left / 60:.1f} min left"
        )
        self._said.mark(progress.step)
        self._has_said = True
