"""Tokens depend neither on the rows beside them nor on what becomes of blocks: a real model in int8 with tiers."""

import pytest
import torch
from engine_harness import finish
from torch import Tensor

from moesaic.bench.engine.crowd import compared, small_engine, tiny_model
from moesaic.engine.lockstep import Lockstep
from moesaic.engine.request import Request, Stopping
from moesaic.engine.runner import ModelRunner
from moesaic.engine.sampling import Sampling
from moesaic.engine.scoring import Reader
from moesaic.models.transformer import Transformer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


def test_a_crowd_gets_what_each_gets_alone(model: Transformer) -> None:
    found = compared(model, 60)
    assert found["the_same"] == found["answers"] > 60
    assert found["preempted"] > 5 and found["with_a_prefix_that_was_kept"] > 5


@pytest.mark.parametrize("point", [0.0, 1.0, 1.5, 2.0])
def test_what_is_scored_is_what_is_served(model: Transformer, point: float) -> None:
    """A prompt of nine tokens at full, then each next token at the tier: by the reader and step by step.

    Bit for bit module by module; a step that is one call rounds otherwise, which moves no neuron here at the full tier.
    """
    ids, prompt = list(range(7, 40)), 9
    served = step_by_step(model, ids, prompt, point, programmed=False)
    model.operating_point = point
    reader = Reader(model, 128)
    read = reader.head(reader.read(ids[:-1], 0, context=prompt)[prompt - 1 :])
    model.operating_point = 0.0
    assert torch.equal(served, read)
    in_one_call = step_by_step(model, ids, prompt, point, programmed=True)
    assert (in_one_call.log_softmax(-1) - read.log_softmax(-1)).abs().max() < (1e-2 if point == 0 else 0.5)


def step_by_step(model: Transformer, ids: list[int], prompt: int, point: float, programmed: bool) -> Tensor:
    """Logits [tokens, vocab] behind the prompt and behind each next token."""
    rows = Lockstep(ModelRunner(model, 8, 128, torch.float32, programmed=programmed), 1, 128)
    served = [rows.prefill(0, ids[:prompt]).logits]
    served += [rows.decode([token], at, point).logits for at, token in enumerate(ids[prompt:-1], prompt)]
    return torch.cat(served)


@pytest.mark.parametrize("chunk", [2, 5, 16, 33])
def test_a_prompt_read_in_chunks_leaves_the_same_bits(model: Transformer, chunk: int) -> None:
    ids = tuple(range(5, 75))
    found = []
    for step_tokens in (chunk, 512):
        one = small_engine(model, slots=1, step_tokens=step_tokens)
        one.add(Request(0, ids, Sampling(temperature=0.0, logprobs=3), Stopping(4, ignore_eos=True)))
        found.append([row.logprobs for row in finish(one)[0]])
    assert found[0] == found[1]
