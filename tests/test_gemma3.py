"""The published Gemma 3, where its licence was accepted: `moesaic models get gemma3-270m --accept-licence`."""

from typing import Any

import pytest
import torch
import transformers

from moesaic.engine.llm import LLM
from moesaic.models.errors import MoesaicError
from moesaic.models.locate import locate

pytestmark = pytest.mark.real
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n",
    "Water boils at a lower temperature on a mountain because",
)


@pytest.fixture(scope="module")
def llm() -> LLM:
    try:
        locate("gemma3-270m")
    except MoesaicError as error:
        pytest.skip(str(error))  # a licence is for a user to accept
    return LLM("gemma3-270m")


@pytest.fixture(scope="module")
def original(llm: LLM) -> Any:
    found = transformers.AutoModelForCausalLM.from_pretrained(locate("gemma3-270m"), dtype=torch.float32)
    return found.eval()


def test_tokens_of_a_batch_are_those_of_transformers(llm: LLM, original: Any) -> None:
    answers = llm.generate(list(PROMPTS), max_new_tokens=24, temperature=0)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        source = torch.tensor([llm.tokenizer.encode(prompt)])
        expected = original.generate(source, max_new_tokens=24, do_sample=False)[0, source.shape[1] :].tolist()
        assert list(answer.token_ids) == [token for token in expected if token not in llm.tokenizer.eos_ids]
