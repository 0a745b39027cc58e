"""The learning rate: a linear warm-up, then a cosine laid over the steps that are planned. No torch."""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Plan:
    """A cosine from step `begin`, where `progress` of it lay behind, to step `last`, where all of it will.

    Training for a number of minutes lays the rest of the cosine anew as its speed becomes known, so that the rate
    ends low whenever the time is over. A plan is saved with the weights: what resumes goes on along the same curve.
    """

    last: int
    begin: int = 0
    progress: float = 0.0

    def share(self, step: int) -> float:
        """How much of the cosine lies behind at this step, 0 to 1."""
        ahead = (step - self.begin) / max(self.last - self.begin, 1)
        return min(1.0, self.progress + (1 - self.progress) * ahead)

    def relaid(self, step: int, steps_left: int) -> "Plan":
        """The same curve up to `step`, the rest of it over `steps_left` more."""
        return replace(self, last=step + max(steps_left, 1), begin=step, progress=self.share(step))


def learning_rate(plan: Plan, step: int, peak: float, final_share: float, warmup_steps: int) -> float:
    """The rate of a step, counted from 0. The warm-up takes at most a tenth of the plan."""
    warmup = min(warmup_steps, plan.last // 10)
    rising = min(1.0, (step + 1) / (warmup + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * plan.share(step)))
    return peak * rising * (final_share + (1 - final_share) * cosine)
