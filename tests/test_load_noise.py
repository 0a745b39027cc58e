"""Two runs of one thing compare as equal, however requests hang together; what is slower is found by enough of them."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from house import ROOT
from load_process import run

from moesaic.bench.compare import compared, read_report, warnings
from moesaic.bench.figure import Figure, Pooled, rate
from moesaic.bench.noise import counted_interval, reach_of_sum

PAIRS = 30


def is_told_apart(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return any(change.sign for change in compared(before, after, 0.03))


@pytest.mark.parametrize(
    "process",
    [
        {"seconds": 20, "rate": 5}, {"seconds": 20, "rate": 5, "tied": 0.1}, {"seconds": 15, "rate": 10},
        {"seconds": 20, "users": 1}, {"seconds": 10, "users": 4},
    ],
)  # fmt: skip
def test_pairs_of_runs_of_one_process_are_told_apart_as_seldom_as_is_said(process: dict[str, Any]) -> None:
    pairs = [(run(2 * i, **process), run(2 * i + 1, **process)) for i in range(PAIRS)]
    assert sum(is_told_apart(*pair) for pair in pairs) <= 0.1 * PAIRS


@pytest.mark.parametrize("process", [{"seconds": 60, "rate": 10}, {"seconds": 60, "users": 4}])
def test_a_tenth_slower_over_enough_requests_is_found(process: dict[str, Any]) -> None:
    for i in range(2):
        before, after = (run(2 * i + j, tied=0.3, spread=0.05, slower=1 + 0.1 * j, **process) for j in (0, 1))
        found = [change for change in compared(before, after, 0.03) if change.sign]
        assert found and all(change.worse for change in found)


def report_of(answers: int) -> dict[str, Any]:
    """Of so many answers in 20 seconds, one after the other."""
    return {"rate": rate([1] * answers, [(i + 0.5) / answers for i in range(answers)], 20.0, "answers/s").as_json()}


def test_a_few_answers_more_or_fewer_are_the_noise_of_counting() -> None:
    assert not is_told_apart(report_of(60), report_of(56)) and not is_told_apart(report_of(60), report_of(50))
    assert is_told_apart(report_of(600), report_of(450))


def test_nothing_may_be_something_the_next_time() -> None:
    assert not is_told_apart(report_of(0), report_of(2))
    assert is_told_apart(report_of(0), report_of(60))


@pytest.mark.parametrize("mean", [3, 10, 100])
def test_intervals_of_counts_hold_their_mean_as_often_as_they_say(mean: int) -> None:
    draw, held = np.random.default_rng(0), 0
    for count in draw.poisson(mean, 400):
        held += counted_interval(np.ones(count), draw.uniform(size=count)).holds(mean)
    assert held >= 372  # 95 % of 400 are 380; fewer than 372 come once in twenty


def test_what_comes_in_batches_has_a_wider_interval_than_what_comes_alone() -> None:
    draw = np.random.default_rng(0)
    alone, together = draw.uniform(size=200), np.repeat(draw.uniform(size=10), 20)
    low, high = (rate([1] * 200, list(places), 20.0, "answers/s") for places in (alone, together))
    assert high.high - high.low > 2 * (low.high - low.low)


def test_a_slow_spell_widens_the_interval_of_a_percentile() -> None:
    draw = random.Random(0)
    times = [[draw.gauss(1.2 if 100 <= i < 200 else 1, 0.1)] for i in range(400)]
    spell, mixed = (Pooled(each).percentiles([0.5])["p50"] for each in (times, draw.sample(times, 400)))
    assert not spell.of_few and spell.high - spell.low > 2 * (mixed.high - mixed.low)


def test_blocks_that_are_all_alike_have_no_noise() -> None:
    assert reach_of_sum(np.ones(240), (np.arange(240) + 0.5) / 240, 240) == 0


@pytest.mark.parametrize(("count", "few"), [(100, True), (2000, False)])
def test_a_percentile_of_too_few_requests_is_told_and_not_compared(count: int, few: bool) -> None:
    draw = random.Random(0)
    before, after = (Pooled([[draw.random()] for _ in range(count)]).percentiles([0.99])["p99"] for _ in (0, 1))
    first, second = ({"a": each.as_json(), "b": report_of(60)} for each in (before, after))
    assert before.of_few == few and Figure.of_json(before.as_json()) is not None
    assert len(compared(first, second, 0.03)) == 2 - few
    assert any("too few requests" in line for line in warnings(first, second)) == few


def test_a_report_of_before_loads_and_its_rates_without_an_interval_are_not_judged() -> None:
    file = ROOT / "bench/results/load/smollm2-2-cores.json"
    old, other = read_report(file), json.loads(file.read_text())
    other["levels"][0]["results"]["int8"]["goodput"]["value"] *= 1.01
    assert not is_told_apart(old, other)


def test_a_report_is_read_from_its_file_as_it_was(tmp_path: Path) -> None:
    (file := tmp_path / "a.json").write_text(json.dumps(run(0, 20, rate=5)))
    assert not is_told_apart(read_report(file), run(0, 20, rate=5))
