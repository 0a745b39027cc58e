"""What is made of the times of requests."""

import random

import pytest
from load_records import driven, record

from moesaic.bench.figure import Pooled
from moesaic.bench.load.door import LOST, OK
from moesaic.bench.load.drive import EMPTY
from moesaic.bench.load.figures import Limits, figures
from moesaic.bench.serving import percentile


def test_times_count_from_when_a_request_was_meant_to_leave() -> None:
    found = figures(driven(record(1.0, [1.5, 1.6, 1.8])), Limits())["times"]
    values = {name: found[name]["p50"]["value"] for name in found}
    assert values == pytest.approx({"ttft": 500, "itl": 100, "tpot": 150, "e2e": 800})


def test_goodput_counts_answers_that_kept_every_limit() -> None:
    late, slow, good = record(0, [0.9, 1.0]), record(0, [0.1, 0.9]), record(0, [0.1, 0.2])
    found = figures(driven(late, slow, good), Limits(ttft=0.5, itl=0.5))
    assert found["goodput"]["value"] == 0.1 and found["answers_per_second"]["value"] == pytest.approx(0.3)


def test_what_failed_is_told_and_has_no_times() -> None:
    found = figures(driven(record(0, [0.1, 0.2]), record(0, [5.0], LOST), record(0, [], OK)), Limits())
    assert found["answered"] == 1 and found["errors"] == {LOST: 1, EMPTY: 1}
    assert found["times"]["ttft"]["p99"]["value"] == pytest.approx(100)


def test_a_level_without_an_answer_is_still_a_report() -> None:
    found = figures(driven(record(0, [], LOST), gone="it is gone"), Limits())
    assert not found["complete"] and found["times"] == {} and found["goodput"]["value"] == 0


def test_a_level_without_a_request_is_still_a_report() -> None:
    assert figures(driven(gone="it is gone"), Limits())["requests"] == 0


def test_tiers_are_told_apart() -> None:
    found = figures(driven(record(0, [0.1], tier="low"), record(0, [0.3], tier="full")), Limits())["tiers"]
    assert {tier: round(found[tier]["ttft"]["p50"]["value"]) for tier in found} == {"low": 100, "full": 300}


def test_a_percentile_is_that_of_all_values() -> None:
    draw = random.Random(0)
    values = [[draw.random() for _ in range(draw.randrange(9))] for _ in range(50)]
    flat = [value for mine in values for value in mine]
    assert abs(sorted(flat).index(Pooled(values).quantiles([0.9])[0]) - sorted(flat).index(percentile(flat, 0.9))) <= 1


def test_intervals_cover_what_they_say() -> None:
    draw, held = random.Random(0), 0
    for _ in range(60):
        interval = Pooled([[draw.expovariate(1)] for _ in range(100)]).percentiles([0.5], scale=1.0)["p50"]
        held += interval.low <= 0.6931 <= interval.high
    assert held >= 51  # 95 % of 60 are 57; fewer than 51 come once in a thousand


def test_what_belongs_to_one_request_is_drawn_together() -> None:
    alike = Pooled([[float(i)] * 50 for i in range(10)]).percentiles([0.5])["p50"]
    alone = Pooled([[float(i % 10)] for i in range(500)]).percentiles([0.5])["p50"]
    assert alike.high - alike.low > alone.high - alone.low
