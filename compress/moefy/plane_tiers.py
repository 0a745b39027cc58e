"""Tiers of bit planes: what the high bits are worth is fitted, then one multiplier spends each tier's bytes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...models.ffn.dense import FFN
from ...models.ffn.planes import PlaneFFN
from ...models.record import TierRecord
from ..stage import Fit
from ..walk import walk
from ..windows import Windows, first_of, num_tokens
from .budget import Allocation, PlaneScores, thresholds_for
from .fit import fitted
from .importance import importance_fit, neuron_importance
from .steps import StepScores, together
from .tiers import Decided, TierSetter, TierWalk

_FIRST_WINDOWS = 8
_COARSE = Fit("what the high bits are worth", 512, "the doubt that they leave to sqrt(1 / 1024), 3 %")


class PlaneTiers(TierSetter[PlaneFFN]):
    """Sets the tiers of one loaded model."""

    kind = PlaneFFN

    @staticmethod
    def passes(tiers: int) -> float:
        """Counts the fit, and for each tier a walk and a quarter over the text that compute every FFN twice."""
        return 2 + 2.5 * tiers

    @staticmethod
    def fits(hidden: int) -> tuple[Fit, ...]:
        return (_COARSE, importance_fit(hidden))

    def prepare(self) -> dict[str, Any]:
        """Fits every layer on what the dense model gives it; notes how far off the coarse products are."""
        windows, seed = self.workshop.windows, self.workshop.seed
        importance = neuron_importance(self.model, windows, seed, self.teller("importance of neurons"))
        doubts, self._dense = list[float](), list[PlaneScores]()

        def learn(index: int, _: FFN, given: Sequence[Tensor]) -> None:
            ffn = self.ffns[index]
            ffn.set_fit(fitted(given, ffn.planes, ffn.bits, importance[index]))
            self._dense.append(PlaneScores.of(ffn))
            for x in given:
                self._dense[-1].add(ffn.plane_scores(x))
            doubts.append(float(ffn.planes.fit.error.float().mean()))

        walk(self.model, windows, learn, progress=self.teller("fit"))
        return {"coarse_error": doubts}

    def set_tier(self, operating_point: int, tier: TierRecord) -> TierRecord:
        """Thresholds from the dense model's scores, then again from those that the tier itself brings about."""
        windows, length = self.workshop.windows, self.workshop.calibration.length
        some = first_of(windows, max(_FIRST_WINDOWS * length, num_tokens(windows) // 4))
        _, seen, _ = self._walk(operating_point, tier, self._dense, some, f"tier {tier.name}, first walk")
        done, _, joint = self._walk(operating_point, tier, seen, windows, f"tier {tier.name}")
        thresholds = [float(ffn.thresholds[operating_point, 0]) for ffn in self.ffns]
        return replace(done, calibrated={**done.calibrated, "together": together(joint, thresholds)})

    def _walk(
        self, operating_point: int, tier: TierRecord, seen: Sequence[PlaneScores], windows: Windows, what: str
    ) -> tuple[TierRecord, list[PlaneScores], list[StepScores]]:
        allocation: Allocation = "uniform" if self.settings.allocation == "uniform" else "global"
        thresholds = thresholds_for(seen, tier.share, allocation)
        found = [PlaneScores.of(each) for each in self.ffns]  # at once: what stays between large pieces splits the heap
        joint = [StepScores(each) for each in self.ffns]

        def decide(layer: int, given: Sequence[Tensor]) -> Decided:
            mine, threshold, active = found[layer], thresholds[layer], []
            self.ffns[layer].thresholds[operating_point] = mine.thresholds(threshold)
            for scores in map(self.ffns[layer].plane_scores, given):
                active.append(mine.add(scores) > threshold)
                joint[layer].add(scores)
            joint[layer].finish()
            return Decided(active, mine.shares_at(threshold)[0], mine.bytes_at)

        return TierWalk(self, operating_point, windows).run(tier, decide, self.teller(what)), found, joint
