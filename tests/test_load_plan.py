"""When requests leave, what is read of a trace, and what limits and targets may be written."""

import argparse
import random
from pathlib import Path
from statistics import mean, pvariance

import pytest

from moesaic.bench.load.arrivals import Lengths, arrivals, closed, ramp
from moesaic.bench.load.figures import Limits
from moesaic.bench.load.prompts import Prompts
from moesaic.bench.load.target import Target
from moesaic.bench.load.trace import lengths_of, replay
from moesaic.cli import bench_serve
from moesaic.models.errors import SetupError, TextError

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)


def times(begin: float, end: float, seconds: float, burstiness: float = 1.0) -> list[float]:
    return list(arrivals(begin, end, seconds, burstiness, random.Random(1)))


def test_arrivals_come_at_the_rate_that_was_asked_for() -> None:
    assert len(times(50, 50, 200)) == pytest.approx(10_000, rel=0.05)


def test_a_ramp_has_its_arrivals_where_the_rate_is_high() -> None:
    found = times(0, 100, 100)
    assert len(found) == pytest.approx(5000, rel=0.05)
    assert sum(at < 50 for at in found) == pytest.approx(1250, rel=0.1)


def test_a_ramp_may_fall_to_nothing() -> None:
    assert len(times(100, 0, 100)) == pytest.approx(5000, rel=0.05)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_vary_as_burstiness_says(burstiness: float) -> None:
    found = times(100, 100, 200, burstiness)
    gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert pvariance(gaps) / mean(gaps) ** 2 == pytest.approx(1 / burstiness, rel=0.15)


def test_a_seed_gives_the_same_requests_and_another_one_others() -> None:
    first, again, other = (ramp(9, 9, 9, 1, Lengths((1, 99), (1, 99)), {"a": 1, "b": 2}, seed) for seed in (1, 1, 2))
    assert first == again and first.requests != other.requests


def test_tiers_are_drawn_by_their_weights() -> None:
    drawn = [asked.tier for asked in closed(1, 1, Lengths(), {"full": 3, "low": 1}, 0).requests]
    assert drawn.count("low") / len(drawn) == pytest.approx(0.25, abs=0.05)


def test_a_trace_is_replayed_as_fast_as_one_likes(tmp_path: Path) -> None:
    (file := tmp_path / "azure.csv").write_text(AZURE)
    first, second = replay(file, 2.0, 60, 10_000, {}, 0).requests
    assert (first.at, first.prompt_tokens, first.new_tokens) == (0.0, 374, 44)
    assert second.at == pytest.approx(4.314579 / 2, abs=1e-3)


def test_a_trace_is_cut_to_what_the_model_holds(tmp_path: Path) -> None:
    (file := tmp_path / "azure.csv").write_text(AZURE)
    assert all(a.prompt_tokens + a.new_tokens <= 100 for a in replay(file, 1.0, 60, 100, {}, 0).requests)


def test_rates_and_users_may_have_the_lengths_of_a_trace(tmp_path: Path) -> None:
    (file := tmp_path / "azure.csv").write_text(AZURE)
    lengths = lengths_of(file, 10_000)
    for level in (ramp(20, 20, 5, 1, lengths, {}, 0), closed(2, 5, lengths, {}, 0)):
        assert {(asked.prompt_tokens, asked.new_tokens) for asked in level.requests} == {(374, 44), (396, 109)}
    assert lengths_of(file, 100).pairs == ((56, 44), (1, 99))


def test_a_trace_without_a_request_has_no_lengths(tmp_path: Path) -> None:
    (file := tmp_path / "azure.csv").write_text(AZURE.splitlines()[0])
    with pytest.raises(TextError, match="no length to draw"):
        lengths_of(file, 100)


def test_the_command_takes_lengths_of_a_trace(tmp_path: Path) -> None:
    (file := tmp_path / "azure.csv").write_text(AZURE)
    bench_serve.add_parser((parser := argparse.ArgumentParser()).add_subparsers())
    args = parser.parse_args(["serve", "x", "--rate", "9", "--users", "2", "--lengths", str(file)])
    levels = bench_serve._levels(args)
    assert [{asked.prompt_tokens for asked in level.requests} for level in levels] == [{374, 396}] * 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the first line must name"),
        ("a,b,c\n1,2,3\n", "it names a, b, c"),
        (AZURE + "yesterday,1,2\n", "line 4: is no request: 'yesterday,1,2'"),
        (AZURE + "2023-11-16 18:15:51,1\n", "line 4"),
        (AZURE + "2023-11-16 18:15:51,-1,5\n", "line 4: a time is from 0 on"),
        (AZURE.splitlines()[0] + "\n", "no request in the first"),
    ],
)
def test_a_trace_with_a_bad_row_is_refused_by_its_line(tmp_path: Path, text: str, told: str) -> None:
    (file := tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TextError, match=told):
        replay(file, 1.0, 60, 100, {}, 0)


def test_limits_are_read_in_their_units() -> None:
    assert Limits.read(["ttft:200ms", "e2e:2s"]) == Limits(ttft=0.2, e2e=2.0)


@pytest.mark.parametrize("word", ["ttft", "ttft:200", "ttft:-1s", "ttft:nans", "speed:1s", "ttft:infs"])
def test_a_limit_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(SetupError, match=f"not '{word}'"):
        Limits.read([word])


def test_a_target_has_the_name_that_it_was_given() -> None:
    assert Target.read("old=grpc://h:1/m") == Target("old", "grpc://h:1/m")
    assert Target.read("http://h:1/v1?model=a") == Target("http://h:1/v1?model=a", "http://h:1/v1?model=a")


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(SetupError, match="https:// cannot be measured"):
        Target.read("https://example.org")


def test_no_two_prompts_begin_alike_and_all_have_their_length() -> None:
    prompts = Prompts(0)
    made = [prompts(i, 50) for i in range(200)]
    assert len({text[:12] for text in made}) == 200 and {len(text) for text in made} == {200}


def test_a_prompt_may_be_longer_than_the_text_that_ships() -> None:
    assert len(Prompts(0)(3, 100_000)) == 400_000
