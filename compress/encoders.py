"""A recipe on an encoder: what its vectors are worth in place of perplexity, beside those of the original.

The first half of each document of the evaluation text asks for its second half among those of all: how often it is
found, and the cosines with the original's vectors, are the measure.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluate.embeddings import Retrieval, VectorScore, compare_vectors, score_vectors, vectors_of
from ..models.checkpoint import Checkpoint
from ..models.errors import RecipeError
from ..models.progress import Progress
from ..models.sentences import Sentences
from ..models.tokenizer import Tokenizer
from .finished import beside_original, write_measured
from .material import load_exact
from .recipe import Recipe
from .run import Run


def check_encoder_recipe(recipe: Recipe) -> None:
    """Raises RecipeError for what is measured of models that continue text alone."""
    if recipe.evaluation.tasks:
        raise RecipeError(
            f"evaluation.tasks is {', '.join(recipe.evaluation.tasks)[:200]}, and tasks are answered by models that "
            "continue text; leave it out for a model with an encoder"
        )


def write_encoder(run: Run, source: Checkpoint, target: Path, progress: Progress) -> Mapping[str, Any]:
    """Runs the stages and writes the result; what was measured of it, at each tier."""
    sentences, tokenizer = Sentences.open(source.path), Tokenizer.open(source.path)
    material = Retrieval.of_halves(run.judge.encoded, tokenizer, sentences.window_within(source.spec.max_context))
    last, kind = run.checkpoint(), sentences.pooling.kind
    first, model, found = load_exact(source, run.device), load_exact(last, run.device), dict[str, VectorScore]()
    theirs = vectors_of(first, material.texts, kind, partial(progress, "vectors of the original"))
    original = score_vectors(theirs, material)
    for tier in last.tiers:
        model.operating_point = last.operating_point(tier)
        mine = vectors_of(model, material.texts, kind, partial(progress, f"vectors at the tier {tier}"))
        found[tier] = score_vectors(mine, material, theirs)
    figures = {
        tier: beside_original(score, compare_vectors(score, original, run.recipe.seed)) for tier, score in found.items()
    }
    return write_measured(run, source, target, figures, original, progress)
