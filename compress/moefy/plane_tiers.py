"""Tiers of bit planes: what the high bits are worth is fitted, then one multiplier spends each tier's bytes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...models.experts import ExpertFFN
from ...models.ffn import FFN
from ...models.record import TierRecord
from ...models.transformer import Transformer
from ..material import Workshop
from ..walk import walk
from .budget import Allocation, PlaneScores, limits_for
from .fit import fitted
from .importance import neuron_importance
from .settings import MoefySettings
from .steps import StepScores, together
from .tiers import Decided, TierWalk, expert_of, experts_of

_FIRST_WINDOWS = 8


class PlaneTiers:
    """Sets the tiers of one loaded model."""

    def __init__(self, model: Transformer, settings: MoefySettings, workshop: Workshop) -> None:
        self._model, self._settings, self._workshop = model, settings, workshop
        self._dense: list[PlaneScores] = []

    @staticmethod
    def passes(tiers: int) -> float:
        """Over the calibration text: the fit, and for each tier a walk and a quarter that compute every FFN twice."""
        return 2 + 2.5 * tiers

    def prepare(self) -> dict[str, Any]:
        """Fits every layer on what the dense model gives it; notes how far off the coarse products are."""
        importance = self._importance()
        doubts: list[float] = []

        def learn(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
            expert = expert_of(ffn)
            if expert.planes is None:
                raise TypeError("only bit planes are fitted")
            expert.set_fit(fitted(given, expert.planes, expert.experts.router_bits, importance[index]))
            self._dense.append(_observed(expert, given))
            doubts.append(float(expert.planes.fit.error.float().mean()))

        walk(self._model, self._workshop.calibration.windows, learn, progress=self._teller("calibrate: fit"))
        return {"coarse_error": doubts}

    def set_tier(self, index: int, tier: TierRecord) -> TierRecord:
        """Limits from the dense model's scores, then again from those that the tier itself brings about."""
        windows = self._workshop.calibration.windows
        some = windows[: max(_FIRST_WINDOWS, len(windows) // 4)]
        _, seen, _ = self._walk(index, tier, self._dense, some, f"calibrate: tier {tier.name}, first walk")
        done, _, joint = self._walk(index, tier, seen, windows, f"calibrate: tier {tier.name}")
        limits = [float(expert.thresholds[index, 0]) for expert in experts_of(self._model)]
        return replace(done, calibrated={**done.calibrated, "together": together(joint, limits)})

    def _walk(
        self, index: int, tier: TierRecord, seen: Sequence[PlaneScores], windows: Tensor, what: str
    ) -> tuple[TierRecord, list[PlaneScores], list[StepScores]]:
        limits = limits_for(seen, tier.share, self._allocation)
        experts = list(experts_of(self._model))  # made at once: what stays between large pieces splits the heap
        found, joint = [PlaneScores.of(each) for each in experts], [StepScores(each) for each in experts]

        def decide(layer: int, expert: ExpertFFN, given: Sequence[Tensor]) -> Decided:
            mine, limit, active = found[layer], limits[layer], []
            expert.thresholds[index] = mine.thresholds(limit)
            for scores in map(expert.plane_scores, given):
                active.append(mine.add(scores) > limit)
                joint[layer].add(scores)
            joint[layer].finish()
            return Decided(active, mine.shares_at(limit)[0], mine.bytes_at)

        gated = next(experts_of(self._model)).gate is not None
        turn = TierWalk(self._model, self._workshop, index, self._settings.compensates(gated), windows)
        return turn.run(tier, decide, what), found, joint

    @property
    def _allocation(self) -> Allocation:
        return "uniform" if self._settings.allocation == "uniform" else "global"

    def _importance(self) -> list[Tensor]:
        windows, seed = self._workshop.calibration.windows, self._workshop.seed
        return neuron_importance(self._model, windows, seed, self._teller("calibrate: importance of neurons"))

    def _teller(self, what: str) -> Any:
        return lambda done, of: self._workshop.progress(what, done, of)


def _observed(expert: ExpertFFN, given: Sequence[Tensor]) -> PlaneScores:
    scores = PlaneScores.of(expert)
    for x in given:
        scores.add(expert.plane_scores(x))
    return scores
