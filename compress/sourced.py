"""A recipe on a model with an encoder and a decoder: fewer stages, and the original's own answers as the measure.

Documents of the evaluation text are sources. What the original answers is what the result is held against: its
perplexity on those answers, and how many of their tokens, and of them whole, it would give too.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..evaluate.pairs import answered, score_pairs, start_of
from ..models.checkpoint import Checkpoint, load_transformer
from ..models.progress import Progress
from .output import write_result
from .run import Run

SOURCE_TOKENS, ANSWER_TOKENS = 128, 32  # of each document, and of each answer, at most


def write_sourced(run: Run, source: Checkpoint, target: Path, progress: Progress) -> Mapping[str, Any]:
    """Runs the stages and writes the result; what was measured of it."""
    last, cpu, spec = run.checkpoint(), torch.device("cpu"), source.spec
    models = [load_transformer(each, cpu) for each in (source, last)]
    longest = min(SOURCE_TOKENS, spec.encoder.max_context if spec.encoder else 0)
    sources = [ids[:longest] for ids in run.judge.encoded if ids]
    new = min(ANSWER_TOKENS, spec.max_context - 1)
    pairs, start = answered(source, models[0], sources, new), start_of(source)
    say = partial(progress, "comparing answers")
    figures = [score_pairs(model, pairs, start, say).summary() for model in models]
    sizes: list[dict[str, Any]] = [{} for _ in run.stages]
    sizes[-1] = {"result": figures[1], "weight_bytes": last.weight_bytes, "original": figures[0]}
    write_result(target, source, last, last.record.with_measured(sizes), run.recipe.sha256(), progress)
    return sizes[-1]
