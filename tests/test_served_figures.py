"""Seeds put together, and tiers beside controls at no more bytes."""

from typing import Any

import pytest

from moesaic.bench.served.figures import against, beside, tier_of
from moesaic.bench.served.score import Kept, Window
from moesaic.evaluate.tasks.items import TaskScore

WINDOWS = [Window(tuple(range(30)), 10, (0, 7)) for _ in range(12)]


def tier(name: str, size: int, nats: float, right: int, answers: tuple[bool, ...] = ()) -> dict[str, Any]:
    """With windows of which each brings a little more than the one before."""
    kept = Kept(
        name, tuple(nats + i for i in range(12)), tuple(right + i % 3 for i in range(12)), (0.1 * nats,) * 12, size
    )
    tasks = [TaskScore("t", "raw", 0.25, {"raw": tuple(map(int, answers))}, {"raw": answers})] if answers else []
    return tier_of(kept, WINDOWS, tasks)


def test_seeds_are_their_mean_with_their_spread_beside_it() -> None:
    original = tier("full", 200, 40, 10)
    seeds = [tier("low", 100 + i, 44 + i, 9 - i) for i in range(3)]
    alone, together = [beside([seed], original) for seed in seeds], beside(seeds, original)
    assert together["token_bytes"] == 101 and together["seeds"] == 3 and "spread" not in alone[0]
    for name in ("relative_top1", "kl"):
        mean = sum(seed[name]["value"] for seed in alone) / 3
        assert together[name]["value"] == pytest.approx(mean, rel=1e-4)
        assert together["spread"][name] == pytest.approx(
            alone[1][name]["value"] - alone[0][name]["value"], rel=0.01
        ) or (together["spread"][name] == pytest.approx(alone[0][name]["value"] - alone[1][name]["value"], rel=0.01))


def test_a_loss_that_every_window_shares_leaves_one_out_of_the_interval() -> None:
    found = beside([tier("low", 100, 44, 9)], tier("full", 200, 40, 10))["relative_perplexity"]
    assert found["value"] == pytest.approx(1.2214, rel=1e-3) and found["low"] > 1.2


def test_a_control_meets_the_tier_that_reads_most_and_no_more_than_it() -> None:
    dial = [[tier(name, size, nats, 9)] for name, size, nats in (("full", 200, 40), ("high", 120, 41), ("low", 90, 43))]
    groups = {"dial": dial, "int4": [[tier("full", 121, 42, 8)]], "tiny": [[tier("full", 50, 90, 1)]]}
    [found] = against(groups)
    assert (found["other"], found["tier"], found["token_bytes"]) == ("int4", "high", 120)
    assert found["relative_perplexity"]["high"] < 1 < found["relative_top1"]["low"]


def test_what_a_task_has_above_chance_is_told_beside_the_original() -> None:
    original = tier("full", 200, 40, 10, (True,) * 6 + (False,) * 2)
    found = beside([tier("low", 100, 41, 9, (True,) * 4 + (False,) * 4)], original)["tasks"]["t"]
    assert found["score"]["value"] == 0.5 and found["above_chance"] == pytest.approx(1 / 3)
    assert found["difference"]["value"] == -0.25 and found["relative_above_chance"]["value"] == pytest.approx(0.5)


def test_an_original_at_chance_has_nothing_to_keep() -> None:
    original = tier("full", 200, 40, 10, (True, False, False, False))
    found = beside([tier("low", 100, 41, 9, (True, True, False, False))], original)["tasks"]["t"]
    assert "relative_above_chance" not in found and found["difference"]["value"] == 0.25
