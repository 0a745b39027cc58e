"""Requests that name their tier, together on a real server: each gets the tokens of its tier, and is told its share."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from moesaic.bench.local_server import local_server
from moesaic.compress.pipeline import compress
from moesaic.engine.completion import Completion
from moesaic.engine.llm import LLM
from moesaic.models.errors import InvalidRequest, Unsupported
from moesaic.server.client import Client

TIERS = ("full", "high", "low")
DIAL = [0.85, 0.6, 0.52]
PROMPTS = ["Once upon a time", "Tom and", "The cat sat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiers") / "model"
    compress("stories260k", out, {
        "calibration": {"sequences": 8, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [
            {"moefy": {"expert_size": 1, "router": "bit_planes", "tiers": {"high": 0.7, "low": 0.48}}},
            {"quantize": {"linears": "int8"}},
        ],
    })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with local_server({"moe": model, "dense": "stories260k"}) as found:
        yield found


def test_tiers_mix_in_a_batch_and_answer_as_they_do_offline(model: Path, address: str) -> None:
    def ask(job: tuple[str, str]) -> Completion:
        with Client(address) as client:
            return client.generate(job[0], model="moe", tier=job[1], temperature=0, max_new_tokens=30)

    jobs = [(prompt, tier) for prompt in PROMPTS for tier in TIERS]
    with ThreadPoolExecutor(len(jobs)) as pool:
        served = list(pool.map(ask, jobs))
    llm = LLM(model)
    for (prompt, tier), answer in zip(jobs, served, strict=True):
        alone = llm.generate(prompt, tier=tier, temperature=0, max_new_tokens=30)[0]
        assert answer.token_ids == alone.token_ids and answer.usage.tier_used == alone.usage.tier_used
        # attention over a padded batch rounds otherwise than alone, and may move a neuron across its threshold
        assert answer.usage.bytes_share == pytest.approx(alone.usage.bytes_share, abs=1e-3)
        assert answer.usage.neurons_share == pytest.approx(alone.usage.neurons_share, abs=2e-3)
    assert len({answer.token_ids for answer in served}) > len(PROMPTS)


def test_usage_tells_tier_and_shares_on_the_wire(address: str) -> None:
    with Client(address) as client:
        usage = {tier: client.generate("One day", model="moe", tier=tier, max_new_tokens=8).usage for tier in TIERS}
        plain = client.generate("One day", model="dense", max_new_tokens=8).usage
    shares = [usage[tier].bytes_share or 0.0 for tier in TIERS]
    assert shares[0] == pytest.approx(1.0) and shares[0] > shares[1] > shares[2] > 0.3
    assert [usage[tier].tier_used for tier in TIERS] == list(TIERS) and plain.bytes_share is None


def test_a_tier_that_is_nearly_right_is_answered_with_the_right_one(address: str) -> None:
    with Client(address) as client, pytest.raises(Unsupported, match="full, high, low; did you mean 'high'"):
        client.generate("One day", model="moe", tier="hihg")


def test_a_stream_that_a_stop_string_ends_still_tells_its_shares(address: str) -> None:
    with Client(address) as client:
        *_, last = client.stream(
            "Once upon a time", model="moe", tier="low", temperature=0, stop="e", max_new_tokens=30
        )
    assert last.usage is not None and last.usage.bytes_share == pytest.approx(0.48, abs=0.12)


def test_the_model_lists_its_tiers_and_refuses_others(address: str) -> None:
    with Client(address) as client:
        listed = {each.name: each for each in client.models()}
        assert {name: each.tiers for name, each in listed.items()} == {"moe": TIERS, "dense": ("full",)}
        full, high, low = listed["moe"].tier_shares
        assert full == 1 > high > low > 0.4 and listed["dense"].tier_shares == (1.0,)
        for name, tier in (("moe", "lowest"), ("dense", "low")):
            with pytest.raises(Unsupported, match="tiers: full"):
                client.generate("One day", model=name, tier=tier)


def test_a_share_between_two_tiers_reads_about_that_much_and_answers_as_it_does_offline(
    model: Path, address: str
) -> None:
    settings: Any = {"temperature": 0, "max_new_tokens": 30, "ignore_eos": True}
    with Client(address) as client:
        answers = {share: client.generate("Once upon a time", model="moe", share=share, **settings) for share in DIAL}
    read = [answer.usage.bytes_share or 0.0 for answer in answers.values()]
    assert read == sorted(read, reverse=True) and read == pytest.approx(DIAL, abs=0.06)
    assert {answer.usage.tier_used for answer in answers.values()} == {""}
    alone = LLM(model).generate("Once upon a time", share=0.6, **settings)[0]
    assert answers[0.6].token_ids == alone.token_ids


def test_shares_that_no_dial_has_are_refused(address: str) -> None:
    with Client(address) as client:
        for share, way_out in ((0.2, "lowest tier, low, reads 0.4"), (0.0, "lies above 0"), (float("nan"), "up to 1")):
            with pytest.raises(InvalidRequest, match=f"compute.share: is .*{way_out}"):
                client.generate("One day", model="moe", share=share)
        with pytest.raises(InvalidRequest, match="a tier or a share, not both"):
            client.generate("One day", model="moe", share=0.6, tier="low")
        with pytest.raises(Unsupported, match="has no tiers"):
            client.generate("One day", model="dense", share=0.6)
        assert client.generate("One day", model="dense", share=1.0, max_new_tokens=1).usage.tier_used == "full"


@pytest.mark.parametrize(
    "settings",
    [
        {"share": "0.6"}, {"share": True}, {"share": Decimal("0.6")}, {"share": 10**400}, {"share": 0}, {"share": 0.1},
        {"share": 2.0, "temperature": 9.0}, {"tier": "lowest", "temperature": 9.0}, {"tier": 5, "share": 0.6},
    ],
)  # fmt: skip
def test_a_mistake_is_told_alike_offline_and_over_grpc(model: Path, address: str, settings: dict[str, Any]) -> None:
    def told(generate: Callable[..., Any], **name: str) -> set[tuple[str, str]]:
        with pytest.raises(InvalidRequest) as caught:
            generate("One day", **name, **settings)
        return {(each.field.rpartition(".")[2], each.message) for each in caught.value.violations}

    with Client(address) as client:
        assert told(client.generate, model="moe") == told(LLM(model).generate)
