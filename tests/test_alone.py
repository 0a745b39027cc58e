"""Tokens depend neither on the rows beside them nor on what becomes of blocks: a real model in int8 with tiers."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_runner import finish, idle, tokens_of

from moesaic.compress.pipeline import compress
from moesaic.engine.engine import Engine
from moesaic.engine.lockstep import Lockstep
from moesaic.engine.request import Request, Stopping
from moesaic.engine.runner import ModelRunner
from moesaic.engine.sampling import Sampling
from moesaic.engine.scoring import Reader
from moesaic.models.checkpoint import load_transformer, open_checkpoint
from moesaic.models.threads import torch_threads
from moesaic.models.transformer import Transformer

RECIPE: Any = {
    "calibration": {"sequences": 12, "length": 48},
    "evaluation": {"documents": 1, "truncate": 24},
    "stages": [
        {"quantize": {"linears": "int8"}},
        {"moefy": {"router": "bit_planes", "expert_size": 1, "tiers": {"high": 0.7, "low": 0.5}}},
    ],
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):  # for a model so small
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    out = tmp_path_factory.mktemp("alone") / "moe"
    compress("stories260k", out, RECIPE)
    return load_transformer(open_checkpoint(out), torch.device("cpu"))


def requests(count: int, seed: int) -> list[Request]:
    """Some begin alike, some are long, some want several answers; tiers, penalties and temperatures of all kinds."""
    chance = random.Random(seed)
    common = [chance.randrange(3, 500) for _ in range(40)]
    found = []
    for key in range(count):
        beginning = common[: chance.choice([0, 0, 17, 40])]
        ids = (*beginning, *(chance.randrange(3, 500) for _ in range(chance.choice([1, 3, 20, 70]))))
        sampling = Sampling(
            temperature=chance.choice([0.0, 1.0, 1.0]), seed=key, top_p=chance.choice([1.0, 0.9]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.3]), presence_penalty=chance.choice([0.0, 0.5]),
            n=chance.choice([1, 1, 1, 2]),
        )  # fmt: skip
        point = chance.choice([0.0, 1.0, 2.0, 1.5])
        found.append(
            Request(key, ids, sampling, Stopping(chance.randint(1, 30), ignore_eos=True), operating_point=point)
        )
    return found


def engine(model: Transformer, blocks: int, slots: int, step_tokens: int = 512) -> Engine:
    return Engine(ModelRunner(model, blocks, 128, torch.float32), num_slots=slots, step_tokens=step_tokens)


def test_a_crowd_gets_what_each_gets_alone(model: Transformer) -> None:
    """Sixteen at a time, in chunks of 48 tokens, over so few blocks that many are preempted."""
    crowd = engine(model, blocks=32, slots=16, step_tokens=48)
    asked = requests(60, seed=1)
    for each in asked:
        crowd.add(each)
    rows = finish(crowd)
    assert idle(crowd) and crowd.scheduler.num_preempted > 5
    assert sum(row.cached_tokens > 0 for each in rows.values() for row in each if row.finish) > 5
    for each in asked:
        alone = engine(model, blocks=32, slots=2)
        alone.add(each)
        wanted = finish(alone)[each.key]
        for choice in range(each.sampling.n):
            assert tokens_of(rows[each.key], choice) == tokens_of(wanted, choice), each


@pytest.mark.parametrize("point", [0.0, 1.0, 1.5, 2.0])
def test_what_is_scored_is_what_is_served(model: Transformer, point: float) -> None:
    """A prompt of nine tokens at full, then each next token at the tier: by the reader and step by step."""
    ids, prompt = list(range(7, 40)), 9
    rows = Lockstep(ModelRunner(model, 8, 128, torch.float32), 1, 128)
    served = [rows.prefill(0, ids[:prompt]).logits]
    served += [rows.decode([token], at, point).logits for at, token in enumerate(ids[prompt:-1], prompt)]
    model.operating_point = point
    reader = Reader(model, 128)
    read = reader.head(reader.read(ids[:-1], 0, context=prompt)[prompt - 1 :])
    model.operating_point = 0.0
    assert torch.equal(torch.cat(served), read)


@pytest.mark.parametrize("chunk", [2, 5, 16, 33])
def test_a_prompt_read_in_chunks_leaves_the_same_bits(model: Transformer, chunk: int) -> None:
    ids = tuple(range(5, 75))
    found = []
    for step_tokens in (chunk, 512):
        one = engine(model, blocks=8, slots=1, step_tokens=step_tokens)
        one.add(Request(0, ids, Sampling(temperature=0.0, logprobs=3), Stopping(4, ignore_eos=True)))
        found.append([row.logprobs for row in finish(one)[0]])
    assert found[0] == found[1]
