"""Every encoder through all that is done with one: int8, inspected, scored, written for others, and served; and what is
refused.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from encoder_cases import ENCODER_CASES
from family_cases import Case

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.engine.runner import ModelRunner
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError, RecipeError, SetupError
from moesaic.server.client import Client

FAMILIES = tuple(dict.fromkeys(case.family for case in ENCODER_CASES))
IDS = torch.arange(3, 43).unsqueeze(0) * 5 % 250 + 3
INT8: dict[str, Any] = {"quantize": {"linears": "int8"}}
TEXT = "Once upon a time, there was a little girl.\n<|endoftext|>\nTom had a red ball and a dog.\n"


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """One of int8, measured on two short texts."""
    (tmp_path / "text.txt").write_text(TEXT)
    return {"evaluation": {"text": [str(tmp_path / "text.txt")]}, "stages": [INT8]}


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_measured_by_cosines_and_written_for_transformers(
    family: str, recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Case(family).build(tmp_path / "model")
    done = compress(tmp_path / "model", tmp_path / "int8", recipe)
    assert 0.99 < done.result["least_cosine"] <= done.result["mean_cosine"] < 1 and done.result["documents"] == 2
    assert compress(tmp_path / "model", tmp_path / "int8", recipe).already_there
    export(tmp_path / "int8", tmp_path / "plain", dtype="float32")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    with torch.no_grad():
        ours, expected = load(tmp_path / "int8")(IDS), theirs(IDS).last_hidden_state
    assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert main(["inspect", str(tmp_path / "int8")]) == 0
    assert f"{family}: " in (shown := capsys.readouterr().out) and "an encoder" in shown and "least cosine" in shown
    scored, against = tmp_path / "scores.json", str(tmp_path / "model")
    text = ["--text", str(tmp_path / "text.txt"), "--json", str(scored)]
    assert main(["eval", str(tmp_path / "int8"), "--against", against, *text]) == 0
    assert json.loads(scored.read_text())["mean_cosine"] == pytest.approx(done.result["mean_cosine"], abs=1e-5)


def test_every_encoder_is_served_with_the_vectors_that_it_has_offline(tmp_path: Path) -> None:
    folders = {family: tmp_path / family for family in FAMILIES if family != "bert"}  # an engine process each
    for family, folder in folders.items():
        Case(family).build(folder)
    with local_server(folders) as address, Client(address) as client:
        for family, folder in folders.items():
            [expected], [found] = LLM(folder).embed(["Once upon"]), client.embed(["Once upon"], model=family)
            assert torch.allclose(torch.tensor(found.values), torch.tensor(expected.values), atol=1e-5), family


def test_int8_by_two_digits_gives_the_vectors_of_int8_by_modules(recipe: dict[str, Any], tmp_path: Path) -> None:
    Case("bert").build(tmp_path / "model")
    compress(tmp_path / "model", tmp_path / "int8", recipe)
    [found] = LLM(tmp_path / "int8").embed([IDS[0].tolist()], normalised=False)
    with torch.no_grad():
        expected = load(tmp_path / "int8")(IDS)[0].mean(0)
    assert torch.allclose(torch.tensor(found.values), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stages": [{"quantize": {"linears": "int8", "kv_cache": "int8"}}]}, "an encoder keeps no keys and values"),
        ({"evaluation": {"tasks": ["lambada.jsonl"]}}, "tasks are answered by models that continue text"),
    ],
)
def test_what_no_encoder_can_be_is_refused_before_anything(
    changes: dict[str, Any], words: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    Case("bert").build(tmp_path / "model")
    with pytest.raises(RecipeError, match=words):
        compress(tmp_path / "model", tmp_path / "out", recipe | changes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["eval", "model", "--stride", "8"], "--stride is of models that continue text, and model is an encoder"),
        (["export", "model", "out", "--to", "compressed-tensors"], "is an encoder, which is not written as compressed"),
        (["compress", "model", "out", "--report", "report"], "compare perplexities, which an encoder has none of"),
        (
            ["retention", "model", "--text", "text.txt", "--out", "curves", "--full"],
            "--full is of models that continue",
        ),
        (["inspect", "model", "--experts", "--text"], "is an encoder, and experts and neurons are looked at where"),
        (["inspect", "model", "--memory", "0:1"], "is an encoder, and experts and neurons are looked at where"),
    ],
)
def test_commands_for_models_that_continue_text_refuse_one_that_does_not(
    command: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Case("bert").build(Path("model"))
    assert main(command) == 2
    assert words in capsys.readouterr().err


def test_no_runner_over_pages_takes_an_encoder(tmp_path: Path) -> None:
    Case("bert").build(tmp_path)
    with pytest.raises(SetupError, match="this bert is an encoder, which continues no text"):
        ModelRunner(load(tmp_path), 4, 64, torch.float32)


def test_an_architecture_with_another_task_is_refused_with_those_that_run(tmp_path: Path) -> None:
    config = transformers.BertConfig(vocab_size=259, hidden_size=48, num_attention_heads=6, num_hidden_layers=1)
    transformers.BertForTokenClassification(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="of the family bert moesaic runs BertModel and BertForMaskedLM and Bert"):
        open_checkpoint(tmp_path)
