"""Corpus BLEU and chrF of answers against their targets, by sacrebleu, which an installation may lack."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .statistics import Comparison, Floats, compare_sums

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

BLEU, CHRF = "bleu", "chrf"


@dataclass(frozen=True, slots=True)
class Quality:
    """What sacrebleu counts of each answer, by metric: [answers, counts]. A figure is of their sum, from 0 to 100.

    signatures: how sacrebleu says what it counted.
    """

    counts: Mapping[str, Floats]
    signatures: Mapping[str, str]

    @classmethod
    def of(cls, answers: Sequence[str], targets: Sequence[str]) -> "Quality":
        """The counts of answers, each against its target. Needs sacrebleu."""
        metrics = _metrics()
        counted = {name: metric._extract_corpus_statistics(answers, [targets]) for name, metric in metrics.items()}
        counts = {name: np.asarray(rows, np.float64) for name, rows in counted.items()}
        return cls(counts, {name: str(metric.get_signature()) for name, metric in metrics.items()})

    def summary(self) -> dict[str, float]:
        """Each metric of all answers together."""
        figures = _figures()
        return {name: figures[name](counts.sum(axis=0)) for name, counts in self.counts.items()}


def compare_quality(ours: Quality, theirs: Quality, seed: int = 0) -> dict[str, Comparison]:
    """Paired bootstrap over answers to the same sources: the difference is in points of each metric."""
    return {
        name: compare_sums(ours.counts[name], theirs.counts[name], figure, seed=seed)
        for name, figure in _figures().items()
    }


def _figures() -> dict[str, Callable[[Floats], float]]:
    """What each metric makes of summed counts."""

    def of(metric: "Metric") -> Callable[[Floats], float]:
        return lambda summed: float(metric._compute_score_from_stats(summed.tolist()).score)

    return {name: of(metric) for name, metric in _metrics().items()}


def _metrics() -> dict[str, "Metric"]:
    """As sacrebleu has them by default: one reference, cased, BLEU of words cut by 13a, chrF of six letters at most."""
    from sacrebleu.metrics import bleu, chrf

    return {BLEU: bleu.BLEU(), CHRF: chrf.CHRF()}
