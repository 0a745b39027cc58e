"""Classifiers compute what the original implementation computes, and what is none is refused in a sentence."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from classifier_cases import CASES, PLANTS, ClassifierCase, parts_of
from family_cases import BASES, Case
from safetensors.torch import load_file, save_file
from torch import Tensor

from moesaic.engine.encoder import EncoderRunner
from moesaic.engine.request import Request
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.labels import MULTI, REGRESSION, SINGLE, Labels, labels_of
from moesaic.models.transformer import Transformer

IDS = torch.randint(6, 256, (3, 40), generator=torch.Generator().manual_seed(1))  # below 6 stand ids of padding
ROWS = [row[:length].tolist() for row, length in zip(IDS, (40, 13, 1), strict=True)]
PLANTED = ("bert", "roberta", "distilbert", "mpnet", "llama", "qwen2", "gpt2")
BY_PART = [(case, part) for case in CASES if case.family in PLANTED for part in parts_of(case)]
BERT = ClassifierCase("bert", {"id2label": {0: "bad", 1: "fair", 2: "good"}})


def logits(model: Transformer, rows: list[list[int]] = ROWS) -> Tensor:
    return EncoderRunner(model).logits([Request(i, tuple(row), classify=True) for i, row in enumerate(rows)])


def theirs(model: Any, rows: list[list[int]] = ROWS) -> Tensor:
    """Each text alone, as the original implementation has it."""
    with torch.no_grad():
        return torch.cat([model(torch.tensor([row])).logits for row in rows])


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_are_those_of_transformers_together_and_alone(case: ClassifierCase, tmp_path: Path) -> None:
    expected, ours = theirs(case.build(tmp_path)), load(tmp_path)
    assert error(logits(ours), expected) <= 1e-5
    assert error(torch.cat([logits(ours, [row]) for row in ROWS]), expected) <= 1e-5


@pytest.mark.parametrize(("case", "part"), BY_PART, ids=str)
def test_a_part_that_is_wrong_is_seen(case: ClassifierCase, part: str, tmp_path: Path) -> None:
    expected = theirs(case.build(tmp_path))
    assert error(logits(PLANTS[part](open_checkpoint(tmp_path))), expected) > 1e-3


def test_every_part_has_a_planted_bug() -> None:
    assert {part for _, part in BY_PART} == PLANTS.keys()


@pytest.mark.parametrize("padding", [7, None])
def test_a_decoder_reads_the_last_token_that_is_no_padding(padding: int | None, tmp_path: Path) -> None:
    rows = [[9, 8, 7], [9, 7, 7], [7, 7], [9]]
    expected = theirs(ClassifierCase("llama", {"pad_token_id": padding}).build(tmp_path), rows)
    assert error(logits(load(tmp_path), rows), expected) <= 1e-5


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_files_of_the_bare_model_with_a_head_are_read_too(family: str, tmp_path: Path) -> None:
    expected = theirs(ClassifierCase(family).build(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix(f"{family}."): each for name, each in weights.items()}, tmp_path / "model.safetensors")
    assert error(logits(load(tmp_path)), expected) <= 1e-5


def test_states_of_a_classifier_are_those_of_the_model_below(tmp_path: Path) -> None:
    model = BERT.build(tmp_path)
    with torch.no_grad():
        expected, found = model.bert(IDS).last_hidden_state, load(tmp_path)(IDS)
    assert error(found, expected) <= 1e-5


# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Labels(("LABEL_0", "LABEL_1"))),
        ({"num_labels": 3}, Labels(("LABEL_0", "LABEL_1", "LABEL_2"))),
        ({"id2label": {"1": "b", "0": "a"}}, Labels(("a", "b"))),
        ({"id2label": {"0": "a"}}, Labels(("a",), MULTI)),
        ({"id2label": {"0": "a"}, "problem_type": REGRESSION}, Labels(("a",), REGRESSION)),
        ({"num_labels": 2, "problem_type": MULTI}, Labels(("LABEL_0", "LABEL_1"), MULTI)),
        ({"num_labels": 1, "problem_type": SINGLE}, Labels(("LABEL_0",), MULTI)),
    ],
)
def test_labels_are_read_as_transformers_reads_them(config: Mapping[str, Any], expected: Labels) -> None:
    assert labels_of(config) == expected


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"id2label": {}}, "id2label is {}, it must be an object that names 1 to 65,536 labels by their numbers"),
        ({"id2label": ["a", "b"]}, "it must be an object that names"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label has no '1' and has '2'; 2 labels have the numbers 0 to 1"),
        ({"id2label": {"0": "a", "x": "b"}}, "id2label has no '1' and has 'x'"),
        ({"id2label": {"0": "a", "1": 5}}, "id2label names 1 as 5, it must be text in Unicode"),
        ({"id2label": {"0": "\ud800"}}, "id2label names 0 as .*, it must be text in Unicode"),
        ({"num_labels": 3, "id2label": {"0": "a", "1": "b"}}, "num_labels is 3 and id2label names 2 labels"),
        ({"num_labels": 0}, "num_labels is 0, it must be 1 to 65,536"),
        ({"num_labels": True}, "num_labels is True, it must be"),
        ({"problem_type": "multi_label"}, "problem_type is 'multi_label'; .*multi_label_classification"),
    ],
)
def test_what_are_no_labels_is_refused(config: Mapping[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        labels_of(config)


@pytest.mark.parametrize("changes", [{"num_labels": 3}, {"num_labels": 3, "problem_type": MULTI}, {"num_labels": 1}])
def test_scores_are_those_of_the_pipeline_of_transformers(changes: Mapping[str, Any], tmp_path: Path) -> None:
    model = ClassifierCase("bert", changes).build(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="</s>")
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    labels = labels_of(json.loads((tmp_path / "config.json").read_text()))
    told = {each["label"]: each["score"] for each in pipeline(["a cat"], top_k=None)[0]}
    ids = tokenizer("a cat")["input_ids"]
    found = labels.scores(logits(load(tmp_path), [ids])[0].tolist())
    assert dict(zip(labels.names, found, strict=True)) == pytest.approx(told, abs=1e-5)
    assert labels.chosen(found) == max(told, key=lambda name: told[name])


def test_scores_of_logits_that_no_exponential_holds_are_numbers() -> None:
    assert Labels(("a", "b")).scores([-2000.0, 2000.0]) == (0.0, 1.0)
    assert Labels(("a", "b"), MULTI).scores([-2000.0, 2000.0]) == (0.0, 1.0)
    assert Labels(("a",), REGRESSION).scores([3.5]) == (3.5,)


# --- checkpoints that contradict themselves --------------------------------------------------------------------------


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return changed


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_config(id2label={"0": "a", "1": "b"}), "classifier.weight has 3 rows, and config.json names 2 labels; name"),
        (_weights(lambda them: them.pop("classifier.weight")), "the weights lack classifier.weight"),
        (_weights(lambda them: them.pop("bert.pooler.dense.bias")), "the weights lack bert.pooler.dense.bias"),
        (
            _weights(lambda them: them["classifier.weight"][1].fill_(math.nan)),
            "classifier.weight holds NaN or infinity",
        ),
        (_weights(lambda them: them.update({"score.weight": torch.ones(3, 48)})), "such as score.weight"),
        (_config(architectures=["BertForTokenClassification"]), "BertForSequenceClassification"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(damage: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    BERT.build(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_a_family_whose_classifiers_are_not_built_names_what_is(tmp_path: Path) -> None:
    Case("olmoe").build(tmp_path)
    _config(architectures=["OlmoeForSequenceClassification"])(tmp_path)
    with pytest.raises(CheckpointError, match="of the family olmoe moesaic runs OlmoeForCausalLM and OlmoeModel$"):
        open_checkpoint(tmp_path)
    assert "olmoe" in BASES
