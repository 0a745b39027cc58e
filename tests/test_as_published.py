"""Models as they were published: what moesaic does not read comes with a command, and the command does it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import edit_json, llama, opt
from tokenizers import pre_tokenizers

from moesaic.models.checkpoint import load
from moesaic.models.errors import CheckpointError
from moesaic.models.tokenizer import Tokenizer


def said(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.open(folder)
    return str(caught.value)


def follow(advice: str) -> None:
    """Runs the command that a sentence ends with."""
    found = re.search(r'python -c "([^"]+)"$', advice)
    assert found, advice
    subprocess.run([sys.executable, "-c", found[1]], check=True, capture_output=True, timeout=120)


def older_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt alone, as OPT has them: letters, and one merge."""
    (folder / "tokenizer.json").unlink()
    names = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\nh e\n")
    values = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("changes", [{}, {"add_bos_token": False, "add_prefix_space": True, "unk_token": "<unk>"}])
def test_vocab_and_merges_are_read_as_transformers_reads_them(changes: dict[str, Any], tmp_path: Path) -> None:
    opt(tmp_path, num_hidden_layers=1)
    older_tokenizer(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", **changes)
    ours, theirs = Tokenizer.open(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("hehe", "he he\nhe", " the  hé</s>he", "<pad>x", ""):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)


def test_damaged_merges_are_told_by_their_files(tmp_path: Path) -> None:
    opt(tmp_path, num_hidden_layers=1)
    older_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq q q\n")
    assert "vocab.json and merges.txt cannot be read as a tokenizer" in said(tmp_path)


def test_a_published_tokenizer_of_another_class_is_made_one_by_the_advice(tmp_path: Path) -> None:
    opt(tmp_path, num_hidden_layers=1)
    older_tokenizer(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer", add_bos_token=None, bos_token=None)
    advice = said(tmp_path)
    assert "has no tokenizer.json; make it of vocab.json and merges.txt" in advice
    follow(advice)
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.encode("hehe") == [260, 260] and tokenizer.decode([260]) == "he"


def test_published_weights_are_converted_by_the_advice(tmp_path: Path) -> None:
    expected = opt(tmp_path, num_hidden_layers=1).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(expected, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="its weights in pytorch_model.bin, a pickle") as caught:
        load(tmp_path)
    follow(str(caught.value))
    assert torch.equal(load(tmp_path).state_dict()["embedding.weight"], expected["lm_head.weight"])


def test_another_form_of_tokenizers_is_named(tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=1)
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.txt")
    assert "make it of vocab.txt, once, where transformers is installed: python -c" in said(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
def test_without_the_libraries_a_sentencepiece_model_is_refused_with_their_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama(tmp_path, num_hidden_layers=1)
    (tmp_path / "tokenizer.json").rename(tmp_path / name)
    monkeypatch.setattr("moesaic.models.extras.find_spec", lambda package: None)
    wanted = (
        f"its {name} needs sentencepiece, transformers, which are not installed; pip install 'moesaic[sentencepiece]'"
    )
    assert said(tmp_path).endswith(f"has no tokenizer.json, and {wanted}")


def test_what_is_no_sentencepiece_model_is_told_with_the_command_for_other_kinds(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="it is sentencepiece that reads them")
    llama(tmp_path, num_hidden_layers=1)
    (tmp_path / "tokenizer.json").rename(tmp_path / "tokenizer.model")
    assert "tokenizer.model is no SentencePiece model; where it is of another kind" in said(tmp_path)


def test_the_files_of_a_marian_need_a_library_and_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama(tmp_path, num_hidden_layers=1)
    (tmp_path / "tokenizer.json").rename(tmp_path / "source.spm")
    assert said(tmp_path).endswith(
        "of source.spm and target.spm and vocab.json too; copy from where it came from what is missing"
    )
    for name in ("target.spm", "vocab.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr("moesaic.models.extras.find_spec", lambda package: None)
    assert "its source.spm needs sentencepiece, which is not installed; pip install 'moesaic[sente" in said(tmp_path)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "added_tokens.json"])
def test_half_of_a_form_is_to_be_copied(name: str, tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=1)
    (tmp_path / "tokenizer.json").rename(tmp_path / name)
    assert said(tmp_path).endswith("has no tokenizer.json; copy it there from where the model came from")
