"""What was kept, as figures with their intervals: a tier beside the original, seeds together, and beside controls.

Windows, and questions, are drawn anew, the same for both sides. Of several seeds an item is their mean, so that the
interval is that of the text; how far seeds lie apart is said beside it, as their standard deviation.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...evaluate.statistics import Comparison, SeedSpread, compare_means, compare_perplexities
from ...evaluate.tasks.items import TaskScore
from ..figure import Figure, mean_of
from .score import Kept, Window

Tier = dict[str, Any]  # in plain values
_SPREAD = ("relative_top1", "relative_perplexity", "kl")
_NO_MORE = 1.005  # times a control's bytes, of a tier that is held against it


def tier_of(kept: Kept, windows: Sequence[Window], tasks: Sequence[TaskScore]) -> Tier:
    """What was scored, by window and by question."""
    scored, places = [window.num_scored for window in windows], [len(window.places) for window in windows]
    found: Tier = {
        "tier": kept.tier, "token_bytes": kept.token_bytes,
        "nats": mean_of(list(zip(kept.nats, scored, strict=True)), "nats/token", "less").as_json(),
        "top1": mean_of(list(zip(kept.right, scored, strict=True)), "", "more").as_json(),
    }  # fmt: skip
    if any(places):
        found["kl"] = mean_of(list(zip(kept.kl, places, strict=True)), "nats/token", "less").as_json()
    found["tasks"] = {
        each.name: {
            "rule": each.rule, "chance": each.chance,
            "score": mean_of([(float(right), 1.0) for right in each.correct[each.rule]], "", "more").as_json(),
        }
        for each in tasks
    }  # fmt: skip
    return found


def beside(tiers: Sequence[Tier], original: Tier) -> Tier:
    """One tier, as several seeds have it, beside the original's full one."""
    together = _mean(tiers)
    found: Tier = {
        "tier": tiers[0]["tier"], "seeds": len(tiers), "token_bytes": _bytes(tiers),
        "perplexity": math.exp(_value(together["nats"])), "top1": _value(together["top1"]),
        **_ratios(together, original),
    }  # fmt: skip
    if "kl" in together:
        found["kl"] = replace(mean_of(together["kl"], "nats/token", "less"), items=()).as_json()
    found["tasks"] = {name: _task(name, tiers, original) for name in tiers[0]["tasks"]}
    if len(tiers) > 1:
        each = [beside([tier], original) for tier in tiers]
        found["spread"] = {name: _spread([seed[name]["value"] for seed in each]) for name in _SPREAD if name in found}
    return found


def against(groups: Mapping[str, Sequence[Sequence[Tier]]]) -> Iterator[dict[str, Any]]:
    """Of every model with tiers, the one that reads most and yet no more than a control does, beside that control.

    groups: by name, for each tier the seeds that have it; the original is not among them.
    """
    controls = {name: tiers[0] for name, tiers in groups.items() if len(tiers) == 1}
    for name, tiers in groups.items():
        for other, control in controls.items() if len(tiers) > 1 else ():
            most = _bytes(control)
            fitting = [tier for tier in tiers if most and (_bytes(tier) or math.inf) <= most * _NO_MORE]
            if fitting:
                tier = max(fitting, key=lambda each: _bytes(each) or 0)
                yield {
                    "model": name, "tier": tier[0]["tier"], "token_bytes": _bytes(tier), "other": other,
                    "other_bytes": most, **_ratios(_mean(tier), _mean(control)),
                }  # fmt: skip


def _ratios(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Top-1 and perplexity of one beside the other, over the same windows."""
    (right, other_right), (nats, other_nats) = (
        [[brought for brought, _ in _items(side, name)] for side in (ours, theirs)] for name in ("top1", "nats")
    )
    scored = [whole for _, whole in _items(ours, "top1")]
    top1, perplexity = compare_means(right, other_right, scored), compare_perplexities(nats, other_nats, scored)
    return {"relative_top1": _ratio(top1, "more"), "relative_perplexity": _ratio(perplexity, "less")}


def _task(name: str, tiers: Sequence[Tier], original: Tier) -> dict[str, Any]:
    """Raw, above chance, and beside the original's: the difference, and what is kept of what that has above chance."""
    items = _mean([{"score": tier["tasks"][name]["score"]} for tier in tiers])["score"]
    theirs = [brought for brought, _ in original["tasks"][name]["score"]["items"]]
    ours, chance = [brought for brought, _ in items], float(tiers[0]["tasks"][name]["chance"])
    difference = compare_means(ours, theirs)
    above = compare_means([each - chance for each in ours], [each - chance for each in theirs])
    score = mean_of(items, "", "more")
    interval = difference.difference_interval
    found: dict[str, Any] = {
        "rule": tiers[0]["tasks"][name]["rule"], "items": len(items), "chance": chance,
        "score": Figure(score.value, score.low, score.high, "", "more").as_json(),
        "above_chance": (score.value - chance) / (1 - chance) if chance < 1 else 0.0,
        "difference": Figure(difference.difference, interval.low, interval.high, "", "more").as_json(),
    }  # fmt: skip
    if np.isfinite([above.ratio, above.ratio_interval.low, above.ratio_interval.high]).all():
        found["relative_above_chance"] = _ratio(above, "more")
    return found


def _mean(tiers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Items [(brought, of what)] by name, the mean over seeds of what each brought."""
    names = [name for name in ("nats", "top1", "kl", "score") if name in tiers[0]]
    found: dict[str, Any] = {}
    for name in names:
        seeds = [tier[name]["items"] for tier in tiers]
        brought = np.mean([[each for each, _ in items] for items in seeds], axis=0)
        found[name] = [(float(each), float(whole)) for each, (_, whole) in zip(brought, seeds[0], strict=True)]
    return found


def _items(side: Mapping[str, Any], name: str) -> Sequence[Sequence[float]]:
    found: Any = side[name]
    items: Sequence[Sequence[float]] = found["items"] if isinstance(found, Mapping) else found
    return items


def _value(items: Sequence[Sequence[float]]) -> float:
    return sum(brought for brought, _ in items) / sum(whole for _, whole in items)


def _bytes(tiers: Sequence[Tier]) -> int | None:
    """The mean over seeds, whose calibration lets each read a little more or less."""
    known = [tier["token_bytes"] for tier in tiers]
    return round(sum(known) / len(known)) if all(known) else None


def _spread(values: Sequence[float]) -> float:
    return float(f"{SeedSpread(tuple(values)).spread:.3g}")


def _ratio(comparison: Comparison, better: str) -> dict[str, Any]:
    interval = comparison.ratio_interval
    return Figure(comparison.ratio, interval.low, interval.high, "x", better).as_json()
