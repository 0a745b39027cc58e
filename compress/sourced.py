"""A recipe on a model with an encoder and a decoder: the original's own answers are the measure.

Documents of the evaluation text are sources. What the original answers is what the result is held against: its
perplexity on those answers, and how many of their tokens, and of them whole, it would give too.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluate.pairs import answered, compare_pairs, score_pairs, start_of
from ..models.checkpoint import Checkpoint
from ..models.progress import Progress
from .answers import ANSWER_TOKENS
from .finished import beside_original, write_measured
from .material import load_exact
from .run import Run

SOURCE_TOKENS = 128  # of each document, at most


def write_sourced(run: Run, source: Checkpoint, target: Path, progress: Progress) -> Mapping[str, Any]:
    """Runs the stages and writes the result; what was measured of it, at each tier."""
    last, spec = run.checkpoint(), source.spec
    longest = min(SOURCE_TOKENS, spec.encoder.max_context if spec.encoder else 0)
    sources = [ids[:longest] for ids in run.judge.encoded if ids]
    first, model, start = load_exact(source, run.device), load_exact(last, run.device), start_of(source)
    pairs = answered(source, first, sources, min(ANSWER_TOKENS, spec.max_context - 1))
    original = score_pairs(first, pairs, start, partial(progress, "answers of the original"))
    figures = dict[str, Any]()
    for tier in last.tiers:
        model.operating_point = last.operating_point(tier)
        found = score_pairs(model, pairs, start, partial(progress, f"answers at the tier {tier}"))
        figures[tier] = beside_original(found, compare_pairs(found, original, run.recipe.seed))
    return write_measured(run, source, target, figures, original, progress)
