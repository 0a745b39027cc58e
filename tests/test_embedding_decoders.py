"""Decoders that sentence-transformers keeps for embeddings: their vectors, and what they are not asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import with_ends
from family_cases import Case
from torch.nn import functional

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError, RecipeError, Unsupported
from moesaic.models.families.registry import FAMILIES
from moesaic.models.sentences import LAST, Pooling, write_pooling
from moesaic.server.client import Client

IDS = torch.arange(12).unsqueeze(0) * 7 % 250
TEXTS = ["a", "The cat sat on the mat.", "Two dogs ran"]
KINDS = pytest.mark.parametrize("kind", ["qwen3", "mistral", "gpt2", "gemma"])


def embedder(folder: Path, kind: str, headless: bool = True) -> Path:
    """A random decoder as sentence-transformers writes it: no head, short names, pooled at the last token."""
    Case(kind).build(made := folder / "embedder")
    with_ends(made)
    if headless:
        transformers.AutoModel.from_pretrained(made).save_pretrained(made)
    write_pooling(made, Pooling(LAST))
    return made


def vectors_of_transformers(folder: Path, ids: list[list[int]]) -> torch.Tensor:
    model: Any = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return torch.stack(
            [functional.normalize(model(torch.tensor([each])).last_hidden_state[0, -1], dim=0) for each in ids]
        )


@KINDS
def test_its_vectors_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    llm = LLM(folder := embedder(tmp_path, kind))
    found = torch.tensor([each.values for each in llm.embed(TEXTS)])
    expected = vectors_of_transformers(folder, [llm.tokenizer.encode(text) for text in TEXTS])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("family", [name for name, each in FAMILIES.items() if each.bare])
def test_files_without_a_head_are_known_by_the_name_that_transformers_gives_them(family: str, tmp_path: Path) -> None:
    Case(family, {"tie_word_embeddings": True}).build(tmp_path)
    headless = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(headless).__name__ == FAMILIES[family].bare
    whole = load(tmp_path)(IDS)
    headless.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path)(IDS), whole)  # the head is the embedding


def test_files_without_a_head_of_their_own_lack_it(tmp_path: Path) -> None:
    Case("qwen3", {"tie_word_embeddings": False}).build(tmp_path)
    transformers.AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the weights lack lm_head\.weight, which config\.json asks for"):
        open_checkpoint(tmp_path)


def test_a_head_in_its_files_is_left_aside(tmp_path: Path) -> None:
    folder = embedder(tmp_path, "qwen3", headless=False)
    checkpoint = open_checkpoint(folder)
    assert not checkpoint.spec.continues_text and checkpoint.spec.kind == "a decoder made for embeddings"
    assert "untied_head.weight" not in checkpoint.entries
    assert len(LLM(folder).embed(TEXTS)) == 3


def test_it_continues_no_text_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = embedder(tmp_path, "qwen3")
    assert main(["run", str(folder), "a cat"]) == 2
    assert "a decoder made for embeddings" in capsys.readouterr().err
    assert main(["retention", str(folder), "--text", "text.txt", "--out", str(tmp_path / "curves")]) == 2
    assert "is a decoder made for embeddings, and curves are of what a model predicts" in capsys.readouterr().err
    with pytest.raises(Unsupported, match="a decoder made for embeddings"):
        LLM(folder).generate("a cat")


def test_a_server_embeds_by_it(tmp_path: Path) -> None:
    folder = embedder(tmp_path, "qwen3")
    with local_server({"texts": folder}) as address, Client(address) as client:
        served, own = (torch.tensor([each.values for each in who.embed(TEXTS)]) for who in (client, LLM(folder)))
        assert torch.allclose(served, own, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_in_int8_it_embeds_nearly_the_same_and_other_stages_are_refused(tmp_path: Path) -> None:
    folder, text = embedder(tmp_path, "qwen3"), tmp_path / "text.txt"
    text.write_text("\n<|endoftext|>\n".join(f"{each} and one more" for each in TEXTS))
    recipe = {"stages": [{"quantize": {"linears": "int8"}}], "evaluation": {"text": [str(text)]}}
    compress(folder, tmp_path / "int8", recipe)
    whole, int8 = (
        torch.tensor([each.values for each in LLM(path).embed(TEXTS)]) for path in (folder, tmp_path / "int8")
    )
    assert (functional.cosine_similarity(whole, int8) > 0.99).all()
    with pytest.raises(RecipeError, match="this model is a decoder made for embeddings"):
        compress(folder, tmp_path / "less", {"stages": [{"prune": {"method": "flap", "remove": 0.25}}]})


def test_it_is_written_for_transformers(tmp_path: Path) -> None:
    folder = embedder(tmp_path, "qwen3")
    export(folder, tmp_path / "dense", "dense", dtype="float32")
    ids = [[3, 4, 5], [6, 7]]
    assert torch.equal(vectors_of_transformers(folder, ids), vectors_of_transformers(tmp_path / "dense", ids))
    assert json.loads((tmp_path / "dense/modules.json").read_text())
