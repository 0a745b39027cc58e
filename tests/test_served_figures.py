"""Seeds put together, and tiers beside controls at no more bytes."""

import statistics
from typing import Any

import pytest

from moesaic.bench.served.contestants import pruned_share, recipes_for
from moesaic.bench.served.figures import against, beside, tier_of
from moesaic.bench.served.score import Kept, Window, windows_of
from moesaic.bench.served.verdict import verdicts
from moesaic.compress.recipe import read_recipe
from moesaic.evaluate.tasks.items import TaskScore
from moesaic.models.checkpoint import open_checkpoint

WINDOWS = [Window(tuple(range(30)), 10, (0, 7)) for _ in range(12)]


def test_fewer_windows_than_there_are_come_from_all_of_the_text() -> None:
    documents = [[*range(45)], [*range(100, 128)]]
    assert [window.ids[0] for window in windows_of(documents, 10, 4, 3)] == [0, 20, 100]
    assert len(windows_of(documents, 10, 4, None)) == len(windows_of(documents, 10, 4, 99)) == 6
    assert windows_of(documents, 10, 4, 1, places=3)[0].places == (0, 2, 4) and windows_of([], 10, 4, 3) == []


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
        values = [seed[name]["value"] for seed in alone]
        assert together[name]["value"] == pytest.approx(sum(values) / 3, rel=1e-4)
        assert together["spread"][name] == pytest.approx(statistics.stdev(values), rel=0.01)


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


@pytest.mark.parametrize(("right", "said"), [(10, "is reached by low, 0.500"), (9, "is not reached")])
def test_the_verdict_names_the_fewest_bytes_that_keep_enough(right: int, said: str) -> None:
    original = tier("full", 400, 40, 10)
    dial = [[tier("full", 200, 40, 10)], [tier("high", 130, 40, 10)], [tier("low", 100, 41, right)]]
    groups = {"int8": [[tier("full", 200, 40, 10)]], "dial": dial}
    report: dict[str, Any] = {
        "kept": {name: [beside(each, original) for each in found] for name, found in groups.items()}
    }
    [line] = verdicts(report | {"against": []})
    assert line.startswith("dial: at most 0.6 of the bytes of int8 at 98.5% of top-1") and said in line


@pytest.mark.parametrize(
    ("interval", "said"), [((0.9, 0.99), "is ahead of"), ((1.01, 1.1), "is behind"), ((0.9, 1.1), "is not told apart")]
)
def test_the_verdict_on_a_control_is_that_of_the_interval(interval: tuple[float, float], said: str) -> None:
    ratio = {"value": sum(interval) / 2, "low": interval[0], "high": interval[1]}
    found = {"model": "dial", "tier": "low", "token_bytes": 100, "other": "gptq", "other_bytes": 101}
    [line] = verdicts({"kept": {}, "against": [found | {"relative_perplexity": ratio}]})
    assert said in line and "dial, low" in line


def test_seeds_are_draws_of_calibration_text_for_the_recipe_that_ships() -> None:
    made = dict(recipes_for(open_checkpoint("stories260k"), 3))
    assert [recipe.calibration.seed for recipe in made["graded"]] == [0, 1, 2]
    assert {recipe.tiers() == read_recipe("graded").tiers() for recipe in made["graded"]} == {True}


def test_static_pruning_leaves_the_share_of_bytes_that_was_asked_for() -> None:
    source = open_checkpoint("stories260k")
    sizes = {name: entry.shape[0] * entry.shape[1] for name, entry in source.entries.items() if len(entry.shape) == 2}
    ffn = sum(size for name, size in sizes.items() if ".ffn." in name)
    gone = pruned_share(source, 0.7)
    assert (sum(sizes.values()) - gone * ffn) / sum(sizes.values()) == pytest.approx(0.7)
