"""Which neurons stay: one ranking over all layers, or the same share of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.errors import RecipeError


def choose_neurons(scores: Sequence[Tensor], remove: float, minimum_keep: int = 1, multiple: int = 1) -> list[Tensor]:
    """Per layer the indices that stay, ascending, int64. The lowest scores of all layers go, ties by layer, then index.

    scores: per layer [width], comparable across layers (scores.standardise). remove: part of all neurons, 0 <= remove
    < 1. A layer keeps a multiple of `multiple`, or all it has, and at least `minimum_keep` or all it has. The number
    that goes is the nearest to the request that a prefix of the ranking gives: at most multiple / 2 away, exact for
    multiple = 1. With a multiple, runs of that many neurons are ranked by their mean score.
    Raises RecipeError where the limits leave less to remove than was asked for.
    """
    _check(scores, remove, minimum_keep, multiple)
    orders = [torch.sort(each, stable=True).indices for each in scores]
    steps = _ranked_steps(scores, orders, minimum_keep, multiple)
    wanted = round(remove * sum(len(each) for each in scores))
    _check_reach(steps, wanted, multiple, minimum_keep, scores)
    removed = [0] * len(scores)
    for step in _nearest_prefix(steps, wanted):
        removed[step.layer] += step.size
    return [order[count:].sort().values for order, count in zip(orders, removed, strict=True)]


def choose_neurons_uniform(
    scores: Sequence[Tensor], remove: float, minimum_keep: int = 1, multiple: int = 1
) -> list[Tensor]:
    """The same with `remove` taken of each layer by itself: only the ranking within a layer counts."""
    return [choose_neurons([each], remove, minimum_keep, multiple)[0] for each in scores]


@dataclass(frozen=True, slots=True)
class _Step:
    """The next `size` neurons that a layer may lose together, and what they are worth."""

    score: float
    layer: int
    size: int


def _ranked_steps(scores: Sequence[Tensor], orders: Sequence[Tensor], keep: int, multiple: int) -> list[_Step]:
    steps = []
    for layer, (each, order) in enumerate(zip(scores, orders, strict=True)):
        ascending, highest = each[order].double(), -float("inf")
        for begin, end in _runs(len(each), keep, multiple):
            highest = max(highest, float(ascending[begin:end].mean()))  # rounding must not turn a layer's order round
            steps.append(_Step(highest, layer, end - begin))
    return sorted(steps, key=lambda step: step.score)  # stable: ties stay by layer, then by index


def _runs(width: int, keep: int, multiple: int) -> list[tuple[int, int]]:
    """Begin and end of each run of removable neurons in a layer's ascending order."""
    most = width - multiple * -(-max(keep, 1) // multiple)
    cuts = [0, *range(width % multiple or multiple, most + 1, multiple)]
    return list(zip(cuts, cuts[1:], strict=False))


def _nearest_prefix(steps: Sequence[_Step], wanted: int) -> Sequence[_Step]:
    """The first steps whose total is nearest to `wanted`; fewer where two are as near."""
    total, best, length = 0, wanted, 0
    for i, step in enumerate(steps):
        total += step.size
        if abs(total - wanted) < best:
            best, length = abs(total - wanted), i + 1
    return steps[:length]


def _check(scores: Sequence[Tensor], remove: float, minimum_keep: int, multiple: int) -> None:
    if not 0 <= remove < 1:
        raise RecipeError(f"prune: remove is {remove}; it must be at least 0 and less than 1")
    if minimum_keep < 1 or multiple < 1:
        raise RecipeError(f"prune: minimum_keep ({minimum_keep}) and multiple ({multiple}) must be at least 1")
    for layer, each in enumerate(scores):
        if not bool(torch.isfinite(each).all()):
            raise ValueError(f"the scores of layer {layer} hold NaN or infinity, which have no rank")


def _check_reach(steps: Sequence[_Step], wanted: int, multiple: int, keep: int, scores: Sequence[Tensor]) -> None:
    most = sum(step.size for step in steps)
    if wanted - most > multiple / 2:
        total = sum(len(each) for each in scores)
        limit = math.floor(1000 * most / total) / 1000
        raise RecipeError(
            f"prune: remove asks for {wanted} of {total} neurons to go, and with minimum_keep {keep} and "
            f"multiple {multiple} only {most} can: set remove to {limit:.3f} at most, or lower minimum_keep"
        )
