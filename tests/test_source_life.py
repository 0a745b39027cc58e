"""Every encoder-decoder through all that is done with one: int8, looked at, scored, written for others, and served."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from source_cases import SOURCE_CASES, logits_of

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.models.checkpoint import load
from moesaic.models.errors import InvalidRequest, Unsupported
from moesaic.server.client import Client

FAMILIES = tuple(dict.fromkeys(case.family for case in SOURCE_CASES))
SOURCES, IDS = torch.arange(40).unsqueeze(0) * 5 % 250, torch.arange(12).unsqueeze(0) * 7 % 250
INT8: dict[str, Any] = {"quantize": {"linears": "int8"}}
TEXT = "Once upon a time, there was a little girl.\n<|endoftext|>\nTom had a red ball and a dog.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each family by its name, texts, and pairs."""
    where = tmp_path_factory.mktemp("life")
    for family in FAMILIES:
        next(case for case in SOURCE_CASES if case.family == family).build(where / family)
    (where / "text.txt").write_text(TEXT)
    pairs = [{"source": "Good morning", "target": "Guten Morgen"}, {"source": "a dog", "target": "ein Hund"}]
    (where / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return where


def recipe(folder: Path, *stages: dict[str, Any]) -> dict[str, Any]:
    return {"evaluation": {"text": [str(folder / "text.txt")]}, "stages": list(stages)}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_int8_is_measured_by_the_original_s_answers_and_written_for_transformers(
    family: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, plain = folder / f"{family}-int8", folder / f"{family}-plain"
    done = compress(folder / family, small, recipe(folder, INT8))
    assert done.original["top1_accuracy"] > 0.9 and 0 < done.result["perplexity"] and done.result["documents"] == 2
    assert done.bytes_after < 0.45 * done.bytes_before
    export(small, plain, dtype="float32")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(plain, dtype=torch.float32).eval()
    expected = theirs(input_ids=SOURCES, decoder_input_ids=IDS).logits
    assert (logits_of(load(small), SOURCES, None, IDS) - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert main(["inspect", str(small)]) == 0
    shown = capsys.readouterr().out
    assert f"{family}: 2 layers" in shown and "encoder 0-2" in shown and "same answers" in shown
    assert "attention to a source that an encoder of 3 layers reads" in shown
    assert len(LLM(small).generate(["Once upon"], max_new_tokens=4)[0].token_ids) <= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_are_scored_beside_the_original(family: str, folder: Path, tmp_path: Path) -> None:
    file, model = tmp_path / "scores.json", str(folder / family)
    command = ["eval", model, "--against", model, "--text", str(folder / "pairs.jsonl")]
    assert main([*command, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    ids = [len(LLM(model).tokenizer.encode(text)) + 1 for text in ("Guten Morgen", "ein Hund")]
    assert found["tokens"] == sum(ids) and found["scores"]["model"] == found["scores"]["original"]
    assert found["perplexity"] > 1 and found["exact_match"] == 0


def test_each_is_served_with_what_it_answers_offline(folder: Path) -> None:
    settings: list[dict[str, Any]] = [{}, {"num_beams": 3, "n": 2}]
    models = {family: folder / family for family in FAMILIES}
    with local_server(models, "--max-context", "64", "--kv-memory", "2M") as address, Client(address) as client:
        for family, setting in product(FAMILIES, settings):
            alone = LLM(models[family]).generate(["Once upon a time"], max_new_tokens=5, **setting)[0]
            answer = client.generate("Once upon a time", model=family, max_new_tokens=5, **setting)
            assert tuple(answer.token_ids) == tuple(alone.token_ids) and answer.text == alone.text, family
        with pytest.raises(InvalidRequest, match="has 70 tokens, the encoder reads 64 at most; shorten it"):
            client.generate("a" * 70, model="t5", max_new_tokens=5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 64}, "max_new_tokens: is 64, an answer holds 63 tokens at most; lower it"),
        ({"prompt_logprobs": 1}, "prompt_logprobs: is 1, and the encoder that reads a prompt foresees no tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(settings: dict[str, Any], words: str, folder: Path) -> None:
    llm = LLM(folder / "bart")
    with pytest.raises(InvalidRequest, match=words):
        llm.generate(["abc"], **settings)
    with pytest.raises(InvalidRequest, match="has 65 tokens, the encoder reads 64 at most"):
        llm.generate(["a" * 65])
    with pytest.raises(Unsupported, match="encoder"):
        llm.embed(["abc"])


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["eval", "t5"], "t5 answers what its encoder reads; name pairs with --text"),
        (["eval", "t5", "--text", "text.txt"], "text.txt, line 1 is no pair; it must be an object"),
        (["eval", "t5", "--text", "pairs.jsonl", "--stride", "4"], "--stride is of models that continue text"),
        (["export", "t5", "out", "--to", "compressed-tensors"], "t5 has an encoder, which is not written as compress"),
        (["compress", "t5", "out", "--report", "report"], "are of models that continue text, and this one answers"),
        (["compress", "t5", "out", "--dry-run", "--predict", "H200"], "foretells tokens of a model without an encoder"),
        (["retention", "t5", "--text", "text.txt", "--out", "curves", "--seeds", "2"], "--seeds is of models that"),
        (["inspect", "t5", "--memory", "0:1"], "t5 has an encoder, and experts and neurons are looked at where"),
    ],
)
def test_commands_for_models_that_continue_text_refuse_one_that_answers(
    command: list[str], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(command) == 2
    assert words in capsys.readouterr().err
