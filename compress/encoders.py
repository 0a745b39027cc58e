"""A recipe on an encoder: fewer stages, and cosines with the original's vectors in place of perplexity."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..evaluate.embeddings import alikeness
from ..models.checkpoint import Checkpoint, load_transformer
from ..models.errors import RecipeError
from ..models.progress import Progress
from ..models.sentences import Sentences
from .output import write_result
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
    """Runs the stages and writes the result; what was measured of it."""
    sentences, last, cpu = Sentences.open(source.path), run.checkpoint(), torch.device("cpu")
    encoded = [ids[: sentences.window_within(source.spec.max_context)] for ids in run.judge.encoded]
    models = [load_transformer(each, cpu) for each in (last, source)]
    say = partial(progress, "comparing vectors")
    figures = alikeness(models[0], models[1], encoded, sentences.pooling.kind, say).summary()
    same = {"documents": figures["documents"], "tokens": figures["tokens"], "mean_cosine": 1.0, "least_cosine": 1.0}
    sizes: list[dict[str, Any]] = [{} for _ in run.stages]
    sizes[-1] = {"result": figures, "weight_bytes": last.weight_bytes, "original": same}
    write_result(target, source, last, last.record.with_measured(sizes), run.recipe.sha256(), progress)
    return sizes[-1]
