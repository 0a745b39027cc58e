"""all-MiniLM-L6-v2 as it was published: its vectors are those of transformers, and int8 keeps them."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from moesaic.compress.calibration import embedded_text
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.evaluate.texts import read_documents
from moesaic.models.locate import locate

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = [line for document in read_documents([embedded_text()]) for line in document.splitlines()]
    return [*[line for line in lines if len(line) > 30][:120], "a", "The quick brown fox.", " ".join(lines[:200])]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("minilm")


def theirs(texts: list[str]) -> Tensor:
    """The vectors of transformers, each text alone, pooled as its directory says."""
    folder = locate("minilm")
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        states = [
            model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state[0].mean(0)
            for text in texts
        ]
    return functional.normalize(torch.stack(states), dim=1)


def ours(llm: LLM, texts: list[str]) -> Tensor:
    return torch.tensor([each.values for each in llm.embed(texts, truncate=True)])


def test_cosines_are_those_of_transformers(llm: LLM, texts: list[str]) -> None:
    found, expected = ours(llm, texts), theirs(texts)
    assert (found @ found.T - expected @ expected.T).abs().max() <= 1e-5
    assert ((found * expected).sum(1) - 1).abs().max() <= 1e-5


def test_int8_keeps_the_vectors(llm: LLM, texts: list[str], tmp_path: Path) -> None:
    done = compress("minilm", tmp_path / "int8", "int8")
    assert done.result["mean_cosine"] > 0.998 and done.bytes_after < 0.27 * done.bytes_before
    kept = functional.cosine_similarity(ours(LLM(tmp_path / "int8"), texts), ours(llm, texts))
    assert kept.mean() > 0.998
