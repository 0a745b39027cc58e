"""The curves as plain values, which curves.json holds and table, picture and page are made of."""

from collections.abc import Callable, Mapping
from typing import Any

from ...evaluate.statistics import Comparison, SeedSpread, compare_means, compare_perplexities
from .lab import Point
from .run import Curves

Report = dict[str, Any]


def as_json(curves: Curves) -> Report:
    """All of it, with the sums of every window, so that any interval can be drawn again."""
    points = [{**point.to_json(), **_figures(curves, point)} for point in curves.points]
    defaults = {str(share): name for share, name in curves.defaults.items()}
    return {**curves.facts, "defaults": defaults, "dense": curves.dense.to_json(), "points": points}


def _figures(curves: Curves, point: Point) -> Mapping[str, Any]:
    if point.reason:
        return {}
    both = (("top1_relative", _top1), ("perplexity_relative", _perplexity))
    return {name: _figure(curves, point, compare) for name, compare in both}


def _figure(curves: Curves, point: Point, compare: Callable[[Curves, Point], Comparison]) -> Mapping[str, Any]:
    found = compare(curves, point)
    shown = {"value": found.ratio, "low": found.ratio_interval.low, "high": found.ratio_interval.high}
    spread = _over_seeds(curves, point, compare)
    return {**shown, "by_seed": list(spread.values)} if spread else shown


def _over_seeds(curves: Curves, point: Point, compare: Callable[[Curves, Point], Comparison]) -> SeedSpread | None:
    """None where there was one seed, or where another one gave no figure."""
    points = [point, *curves.again[point.method, point.share]]
    if len(points) == 1 or any(each.reason for each in points):
        return None
    return SeedSpread(tuple(compare(curves, each).ratio for each in points))


def _top1(curves: Curves, point: Point) -> Comparison:
    return compare_means(point.correct, curves.dense.correct, point.tokens)


def _perplexity(curves: Curves, point: Point) -> Comparison:
    return compare_perplexities(point.nats, curves.dense.nats, point.tokens)
