"""Two scores of the same text side by side: what their difference is worth."""

from collections.abc import Sequence

from .score import DocumentScore, Score
from .statistics import Comparison, compare_means, compare_perplexities

PERPLEXITY, TOP1 = "perplexity", "top1_accuracy"
AHEAD, BEHIND, NO_DIFFERENCE = "ahead", "behind", "no difference shown"
_FEW_DOCUMENTS = 10  # below this many, intervals are over windows


def compare_scores(ours: Score, theirs: Score, seed: int = 0) -> tuple[str, dict[str, Comparison]]:
    """Paired bootstrap of perplexity and top-1 accuracy over documents, or over windows of a few long ones.

    Gives what it was over, and a comparison by figure; ("", {}) for a text too short for an interval.
    """
    few = len(ours.documents) < _FEW_DOCUMENTS
    mine, other = (score.pieces if few else score.documents for score in (ours, theirs))
    kept = [pair for pair in zip(mine, other, strict=True) if pair[0].num_tokens]
    if len(kept) < 2:
        return "", {}
    first, second = ([pair[side] for pair in kept] for side in (0, 1))
    tokens = _column(first, "num_tokens")
    right, their_right = _column(first, "num_correct"), _column(second, "num_correct")
    return "windows" if few else "documents", {
        PERPLEXITY: compare_perplexities(_column(first, "nats"), _column(second, "nats"), tokens, seed=seed),
        TOP1: compare_means(right, their_right, tokens, seed=seed),
    }


def verdict(figure: str, comparison: Comparison) -> str:
    """AHEAD or BEHIND where the interval shows it, else NO_DIFFERENCE; of perplexity less is better."""
    better = -1 if figure == PERPLEXITY else 1
    return {better: AHEAD, -better: BEHIND, 0: NO_DIFFERENCE}[comparison.sign]


def _column(scores: Sequence[DocumentScore], name: str) -> list[float]:
    return [getattr(score, name) for score in scores]
