"""The published T5: it translates and titles, with the tokens of transformers, alone and in a batch."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from moesaic.engine.llm import LLM
from moesaic.models.locate import locate

pytestmark = pytest.mark.real
PROMPTS = (
    "translate English to German: The house is small.",
    "translate English to French: I like to read books in the garden.",
    "translate English to German: My brother works in a bank, and he comes home at six o'clock in the evening.",
    "summarize: studies have shown that owning a dog is good for you",
    "title: How do I fix a broken database connection in Python when the server restarts?",
    "title: The weather in London was unusually warm this week, and parks were full of people who enjoyed it.",
    "Answer the question: What is the capital of France?",
)
NEW = 32


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("t5")


@pytest.fixture(scope="module")
def original() -> Any:
    return transformers.T5ForConditionalGeneration.from_pretrained(locate("t5"), dtype=torch.float32).eval()


def theirs(original: Any, llm: LLM, prompt: str, **settings: Any) -> list[int]:
    source = torch.tensor([llm.tokenizer.encode(prompt)])
    found: list[int] = original.generate(source, max_new_tokens=NEW, do_sample=False, **settings)[0, 1:].tolist()
    return [token for token in found if token not in llm.tokenizer.eos_ids]


def ours(llm: LLM, prompts: Sequence[str], **settings: Any) -> list[list[int]]:
    return [list(answer.token_ids) for answer in llm.generate(prompts, max_new_tokens=NEW, **settings)]


def test_it_translates(llm: LLM) -> None:
    assert llm.generate(PROMPTS[:1])[0].text == "Das Haus ist kleiner."


@pytest.mark.parametrize("settings", [{}, {"num_beams": 4}, {"num_beams": 3, "length_penalty": 2.0}], ids=str)
def test_tokens_are_those_of_transformers(settings: dict[str, Any], llm: LLM, original: Any) -> None:
    expected = [theirs(original, llm, prompt, **settings) for prompt in PROMPTS]
    assert ours(llm, PROMPTS, **settings) == expected
    assert [ours(llm, [prompt], **settings)[0] for prompt in PROMPTS] == expected
