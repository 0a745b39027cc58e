"""A published model of 135M parameters, end to end. Needs `--real` and `moesaic models get smollm2`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from moesaic.bench.local_server import local_server
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.engine.request import FinishReason
from moesaic.evaluate.measure import score_as_one
from moesaic.evaluate.plan import Plan
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.locate import locate
from moesaic.server.client import Client

pytestmark = pytest.mark.real
TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "valid" / "valid_docs_peps.txt"
PROMPTS = [
    "def fibonacci(n):",
    "Once upon a time",
    "The three laws of thermodynamics are",
    "In 1969, the first man",
    "The most important thing about a compiler is",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    found: Path = locate("smollm2")  # where it is missing, the error names the command that fetches it
    return found


@pytest.fixture(scope="module")
def original(folder: Path) -> Any:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def int8(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "int8"
    compress(folder, out, {"stages": [{"quantize": {"linears": "int8"}}], "evaluation": {"documents": 1}})
    return out


@pytest.fixture(scope="module")
def peps() -> list[str | Path]:
    if not TEXT.exists():
        pytest.skip(f"the text {TEXT.name} is not at hand")
    return [TEXT]


def test_logits_equal_those_of_transformers(folder: Path, original: Any) -> None:
    ids = torch.randint(0, 49152, (2, 200), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = original(ids).logits, load(folder)(ids)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_sixty_four_greedy_tokens_equal_those_of_transformers(folder: Path, original: Any) -> None:
    llm = LLM(folder)
    answers = llm.generate(PROMPTS, temperature=0, max_new_tokens=64)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor([llm.tokenizer.encode(prompt)])
        with torch.inference_mode():
            made = original.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
        assert [*answer.token_ids] == [i for i in made[0, ids.shape[1] :].tolist() if i not in llm.tokenizer.eos_ids]


def test_its_score_is_the_known_one_and_int8_keeps_it(folder: Path, int8: Path, peps: list[str | Path]) -> None:
    dense = score_as_one(Plan(folder, text=peps, documents=20, truncate=512))
    assert dense.total.num_tokens == 10_220
    assert dense.perplexity == pytest.approx(24.379, abs=1e-3)
    assert dense.top1_accuracy == pytest.approx(0.4018, abs=5e-5)
    assert score_as_one(Plan(int8, text=peps, documents=20, truncate=512)).perplexity <= 1.005 * dense.perplexity


def test_int8_takes_little_more_than_half_the_bytes(folder: Path, int8: Path) -> None:
    assert open_checkpoint(int8).weight_bytes <= 0.55 * open_checkpoint(folder).weight_bytes


TALK = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Spain? <|im_end|>"},
]


def test_chat_ids_equal_those_of_transformers(folder: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    llm = LLM(folder)
    for talk in (TALK[:1], TALK, [{"role": "system", "content": "Be brief."}, *TALK]):
        theirs = tokenizer.apply_chat_template(talk, add_generation_prompt=True, sanitize_control_tokens=True)
        assert llm.chat_prompt(talk) == theirs["input_ids"]


def test_a_chat_ends_at_the_end_of_its_turn(folder: Path) -> None:
    (answer,) = LLM(folder).chat(TALK[:1], temperature=0)
    assert answer.text == "The capital of France is Paris."
    assert (answer.finish_reason, answer.matched) == (FinishReason.STOP_TOKEN, 2)  # <|im_end|>


@pytest.fixture(scope="module")
def client(int8: Path) -> Iterator[Client]:
    with local_server({"int8": int8}) as address, Client(address) as found:
        yield found


def test_int8_is_streamed_as_it_is_generated_offline(int8: Path, client: Client) -> None:
    expected = LLM(int8).generate(PROMPTS, temperature=0, max_new_tokens=32)
    for prompt, answer in zip(PROMPTS, expected, strict=True):
        chunks = list(client.stream(prompt, temperature=0, max_new_tokens=32))
        assert "".join(chunk.text for chunk in chunks) == answer.text


def test_a_served_chat_equals_the_offline_one(int8: Path, client: Client) -> None:
    (offline,) = LLM(int8).chat(TALK, temperature=0, max_new_tokens=32)
    served = client.chat(TALK, temperature=0, max_new_tokens=32)
    assert (served.text, served.token_ids) == (offline.text, offline.token_ids) and client.model().chat


def test_an_empty_prompt_is_refused_since_the_tokenizer_has_no_begin_token(client: Client) -> None:
    from moesaic.models.errors import InvalidRequest

    with pytest.raises(InvalidRequest, match="no begin token"):
        client.generate("", max_new_tokens=4)
