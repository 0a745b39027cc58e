"""What controls will take, before any of them begins."""

from collections.abc import Iterator, Sequence

from ..models.checkpoint import Checkpoint
from ..models.errors import SetupError
from .derive import (
    ALONE,
    EXPERTS_OF_64,
    FLAP,
    METHODS,
    RANDOM_EXPERTS,
    ROUTERS,
    STATIC,
    STATIC_DISTILLED,
    Variant,
    each_alone,
    experts_of_64,
    groups_for,
    static_pruning,
)
from .judge import Judge
from .pipeline import Run
from .recipe import Recipe
from .selections import SELECTIONS


def control_seconds(source: Checkpoint, recipe: Recipe, groups: Sequence[str]) -> dict[str, float]:
    """About how long each group takes on this machine, after the recipe itself and the groups before it.

    Counts the tokens that stages read and that are scored; of what an earlier run made only the scores.
    Raises RecipeError as `groups_for` does.
    """
    judge = Judge(source, recipe.evaluation, lambda what, done, total: None)
    itself = _run(source, recipe, judge)
    scored, each = sum(map(len, judge.encoded)), itself.seconds_per_token()
    known = {key for key, _ in itself.efforts}
    found = {}
    for group in groups_for(recipe, groups):
        tokens = 0.0
        if group == ROUTERS:
            tokens += len(SELECTIONS) * len(recipe.tiers()) * (itself.calibration_tokens + scored)
        for variant in _variants(recipe, group):
            try:
                run = _run(source, variant.recipe, judge)
            except SetupError:
                continue  # it will not run, and says so
            tokens += (
                sum(effort for key, effort in run.efforts if key not in known) + len(variant.tiers or "1") * scored
            )
            known |= {key for key, _ in run.efforts}
        found[group] = tokens * each
    return found


def _variants(recipe: Recipe, group: str) -> Iterator[Variant]:
    """As they will run, but for how much static pruning removes and for tiers that experts leave no room for."""
    tiers = recipe.tiers()
    if group == ALONE:
        yield from each_alone(recipe)
    elif group in (EXPERTS_OF_64, RANDOM_EXPERTS):
        yield experts_of_64(recipe, list(tiers), group)
    elif group in (STATIC, STATIC_DISTILLED):
        for share in tiers.values() or [0.5]:
            for method in METHODS if group == STATIC else (FLAP,):
                yield static_pruning(recipe, 1 - share, method, group == STATIC_DISTILLED)


def _run(source: Checkpoint, recipe: Recipe, judge: Judge) -> Run:
    return Run(source, recipe, lambda what, done, total: None, judge=judge)
