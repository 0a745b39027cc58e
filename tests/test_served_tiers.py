"""Requests that name their tier, together on a real server: each gets the tokens of its tier, and is told its share."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from moesaic.bench.local_server import local_server
from moesaic.compress.pipeline import compress
from moesaic.engine.completion import Completion
from moesaic.engine.llm import LLM
from moesaic.models.errors import Unsupported
from moesaic.server.client import Client

TIERS = ("full", "high", "low")
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
        assert answer.usage.ffn_bytes_share == pytest.approx(alone.usage.ffn_bytes_share, abs=1e-3)
        assert answer.usage.ffn_neurons_share == pytest.approx(alone.usage.ffn_neurons_share, abs=2e-3)
    assert len({answer.token_ids for answer in served}) > len(PROMPTS)


def test_usage_tells_tier_and_shares_on_the_wire(address: str) -> None:
    with Client(address) as client:
        usage = {tier: client.generate("One day", model="moe", tier=tier, max_new_tokens=8).usage for tier in TIERS}
        plain = client.generate("One day", model="dense", max_new_tokens=8).usage
    shares = [usage[tier].ffn_bytes_share or 0.0 for tier in TIERS]
    assert shares[0] == pytest.approx(1.0) and shares[0] > shares[1] > shares[2] > 0.3
    assert [usage[tier].tier_used for tier in TIERS] == list(TIERS) and plain.ffn_bytes_share is None


def test_a_stream_that_a_stop_string_ends_still_tells_its_shares(address: str) -> None:
    with Client(address) as client:
        *_, last = client.stream(
            "Once upon a time", model="moe", tier="low", temperature=0, stop="e", max_new_tokens=30
        )
    assert last.usage is not None and last.usage.ffn_bytes_share == pytest.approx(0.48, abs=0.12)


def test_the_model_lists_its_tiers_and_refuses_others(address: str) -> None:
    with Client(address) as client:
        listed = {each.name: each.tiers for each in client.models()}
        assert listed == {"moe": TIERS, "dense": ("full",)}
        for name, tier in (("moe", "lowest"), ("dense", "low")):
            with pytest.raises(Unsupported, match="tiers: full"):
                client.generate("One day", model=name, tier=tier)
