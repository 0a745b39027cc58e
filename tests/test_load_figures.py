"""What is made of the times of requests, and of two reports."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from load_cases import driven, record

from moesaic.bench.load.compare import Change, compared, read_report
from moesaic.bench.load.door import LOST, OK
from moesaic.bench.load.figure import Pooled
from moesaic.bench.load.figures import Limits, figures
from moesaic.bench.serving import percentile
from moesaic.models.errors import SetupError


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
    assert found["answered"] == 1 and found["errors"] == {LOST: 1, OK: 1}
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


def report(slower: float = 1.0, seed: int = 0, count: int = 400) -> dict[str, Any]:
    draw = random.Random(seed)
    records = [
        record(i, [i + slower * draw.gauss(0.1, 0.01) + slower * 0.01 * j for j in range(5)]) for i in range(count)
    ]
    return {"levels": [{"name": "users 1", "results": {"a": figures(driven(*records), Limits())}}]}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    return [change for change in compared(before, after, 0.03) if change.sign]


def test_two_runs_of_the_same_thing_compare_as_equal() -> None:
    assert sum(bool(changes(report(seed=2 * i), report(seed=2 * i + 1))) for i in range(10)) <= 1


def test_a_slow_down_of_a_tenth_is_found() -> None:
    found = changes(report(seed=0), report(1.1, seed=1))
    assert found and all(change.worse for change in found)


def test_what_grew_better_is_not_worse() -> None:
    found = changes(report(1.1, seed=0), report(seed=1))
    assert found and not any(change.worse for change in found)


def test_a_change_below_what_was_asked_for_is_not_told() -> None:
    before, after = report(seed=0, count=4000), report(1.05, seed=1, count=4000)
    assert changes(before, after) and not [change for change in compared(before, after, 0.2) if change.sign]


@pytest.mark.parametrize("text", ["", "[]", '{"levels": []}', "not json"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "x.json").write_text(text)
    with pytest.raises(SetupError, match="is no report with figures"):
        read_report(file)


def test_reports_without_a_figure_in_common_are_refused() -> None:
    other = json.loads(json.dumps(report()).replace("users 1", "users 2"))
    with pytest.raises(SetupError, match="no figure in common"):
        compared(report(), other, 0.03)
