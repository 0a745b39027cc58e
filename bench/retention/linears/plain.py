"""The curves over all linears as plain values, which curves.json holds."""

from collections.abc import Mapping
from typing import Any

from ....evaluate.statistics import Comparison, compare_means, compare_perplexities
from .lab import Point
from .run import LinearCurves


def as_json(curves: LinearCurves) -> dict[str, Any]:
    """All of it, with the sums of every window, so that any interval can be drawn again."""
    points = [{**point.to_json(), **_figures(curves.dense, point)} for point in curves.points]
    return {**curves.facts, "dense": curves.dense.to_json(), "points": points}


def _figures(dense: Point, point: Point) -> Mapping[str, Any]:
    if point.reason:
        return {}
    tokens = sum(point.tokens)
    return {
        "top1_relative": _figure(compare_means(point.correct, dense.correct, point.tokens)),
        "perplexity_relative": _figure(compare_perplexities(point.nats, dense.nats, point.tokens)),
        "kl_per_token": sum(point.kl) / tokens, "agreement": sum(point.agreed) / tokens,
    }  # fmt: skip


def _figure(found: Comparison) -> Mapping[str, float]:
    return {"value": found.ratio, "low": found.ratio_interval.low, "high": found.ratio_interval.high}
