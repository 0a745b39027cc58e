"""What controls will take, before any of them begins."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from ...compress.calibration import Calibration
from ...compress.judge import Judge
from ...compress.recipe import Recipe
from ...compress.run import Run
from ...models.checkpoint import Checkpoint
from ...models.devices import choose_device
from ...models.errors import SetupError
from ...models.threads import choose_threads, torch_threads
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
from .stand_ins import STAND_INS


def control_seconds(source: Checkpoint, recipe: Recipe, groups: Sequence[str]) -> dict[str, float]:
    """About how long each group takes on this machine, after the recipe itself and the groups before it.

    Counts the tokens that stages read and that are scored; of what an earlier run made only the scores.
    Raises RecipeError as `groups_for` does.
    """
    judge = Judge(source, recipe.evaluation, lambda what, done, total: None, choose_device(recipe.device))
    calibration = Calibration(recipe.calibration, source)
    itself = _run(source, recipe, judge, calibration)
    scored, known = sum(map(len, judge.encoded)), {key for key, _ in itself.efforts}
    tokens = {}
    for group in groups_for(recipe, groups):
        tokens[group] = 0.0
        if group == ROUTERS:
            tokens[group] = len(STAND_INS) * len(recipe.tiers()) * (itself.calibration_tokens + scored)
        for variant in _variants(recipe, group):
            for run in _possible(source, variant.recipe, judge, calibration):
                tokens[group] += sum(effort for key, effort in run.efforts if key not in known)
                tokens[group] += len(variant.tiers or "1") * scored
                known |= {key for key, _ in run.efforts}
    with torch_threads(choose_threads(None, source.weight_bytes)):
        each = itself.seconds_per_token()
    return {group: count * each for group, count in tokens.items()}


def _possible(source: Checkpoint, recipe: Recipe, judge: Judge, calibration: Calibration) -> Iterator[Run]:
    """The run of a recipe, or nothing where it cannot run: as a control it says why."""
    with suppress(SetupError):
        yield _run(source, recipe, judge, calibration)


def _variants(recipe: Recipe, group: str) -> Iterator[Variant]:
    """The variants of a group as they will run, but for how much static pruning removes, and for experts of several
    tiers made at once.
    """
    tiers = recipe.tiers()
    if group == ALONE:
        yield from each_alone(recipe)
    elif group in (EXPERTS_OF_64, RANDOM_EXPERTS):
        for tier in tiers:
            yield experts_of_64(recipe, [tier], group)
    elif group in (STATIC, STATIC_DISTILLED):
        for share in tiers.values() or [0.5]:
            for method in METHODS if group == STATIC else (FLAP,):
                yield static_pruning(recipe, 1 - share, method, group == STATIC_DISTILLED)


def _run(source: Checkpoint, recipe: Recipe, judge: Judge, calibration: Calibration) -> Run:
    return Run(source, recipe, lambda what, done, total: None, judge=judge, calibration=calibration)
