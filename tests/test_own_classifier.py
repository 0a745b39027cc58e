"""A classifier of one's own: learned from examples, opened by others, compressed, and scored on other texts."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from builders import with_ends
from classifier_cases import ClassifierCase
from family_cases import Case

from moesaic.bench.classification import main as bench
from moesaic.cli.main import main
from moesaic.compress.classifier import fitted, train_classifier
from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.models.checkpoint import open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError, RecipeError, TextError
from moesaic.models.spec import ClassifierSpec

LETTERS = {"low": "abcde", "high": "vwxyz", "digit": "12345"}  # what texts of a label are made of
DOCUMENTS = "abc xyz abc xyz\n<|endoftext|>\nvwx 123 vwx 123\n"
INT8: dict[str, Any] = {"stages": [{"quantize": {"linears": "int8"}}]}


def lines(count: int, offset: int = 0) -> str:
    """Labelled texts, of which no two are equal."""
    found = []
    for i in range(offset, offset + count):
        for label, letters in LETTERS.items():
            text = "".join(letters[(i * 7 + place * (1 + i % 3)) % 5] for place in range(6 + i % 9))
            found.append(f"{label}\t{text}")
    return "\n".join(found) + "\n"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """48 examples to learn from and 30 others beside them."""
    (tmp_path / "letters.train.tsv").write_text(lines(16))
    (tmp_path / "letters.valid.tsv").write_text(lines(10, offset=50))
    return tmp_path / "letters.train.tsv"


def encoder(folder: Path, family: str = "bert") -> Path:
    Case(family).build(folder)
    with_ends(folder)
    return folder


def valid(examples: Path) -> Path:
    return examples.with_name("letters.valid.tsv")


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "llama", "gpt2"])
def test_what_is_learned_opens_in_transformers_and_says_the_same(family: str, examples: Path, tmp_path: Path) -> None:
    model, out = encoder(tmp_path / "model", family), tmp_path / "out"
    made = train_classifier(model, examples, out)
    assert made.counts == {"digit": 16, "high": 16, "low": 16} and made.right > 0.6
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(out, dtype="float32").eval()
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    texts = ["abcab", "xyz", "1122334455"]
    with torch.no_grad():
        expected = torch.cat([theirs(torch.tensor([tokenizer.encode(text).ids])).logits for text in texts])
    found = torch.tensor([each.logits for each in LLM(out).classify(texts)])
    # First tokens of a random model hardly differ: standardised, their states have its rounding enlarged.
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert theirs.config.id2label == {0: "digit", 1: "high", 2: "low"}


def test_the_same_examples_give_the_same_bytes_and_the_model_stays(examples: Path, tmp_path: Path) -> None:
    model = encoder(tmp_path / "model")
    for name in ("one", "other"):
        train_classifier(model, examples, tmp_path / name)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()
    before, after = (dict(read_tensors(open_checkpoint(each))) for each in (model, tmp_path / "one"))
    assert after.keys() - before.keys() == {
        f"classifier.{a}.{b}" for a in ("dense", "output") for b in ("weight", "bias")
    }
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert open_checkpoint(tmp_path / "one").record.stages[-1].settings["labels"] == ["digit", "high", "low"]


@pytest.mark.parametrize("spec", [ClassifierSpec(3, dense="tanh"), ClassifierSpec(3, dense="relu")])
def test_states_that_lie_apart_are_told_apart_wherever_they_lie(spec: ClassifierSpec) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(60) % 3
    states = 100 + 1e-2 * (torch.eye(3)[targets] + 0.05 * torch.randn(60, 3, generator=generator))
    tensors = fitted(states, targets, spec)
    dense = states @ tensors["classifier.dense.weight"].T + tensors["classifier.dense.bias"]
    squashed = dense.tanh() if spec.dense == "tanh" else dense.relu()
    logits = squashed @ tensors["classifier.output.weight"].T + tensors["classifier.output.bias"]
    assert torch.equal(logits.argmax(-1), targets)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no example; each line is a label, a tab and a text"),
        ("a\tone\na\ttwo\n", "all 2 examples of .* have the label 'a', and a classifier tells at least two apart"),
        ("a\tone\nb two\n", "line 2: not a label, a tab and a text"),
        ("a\tone\n\nb\t\n", "line 3: not a label, a tab and a text"),
        ("\tone\n", "line 1: not a label"),
    ],
)
def test_examples_that_teach_nothing_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "some.tsv").write_text(text)
    with pytest.raises(TextError, match=words):
        train_classifier(encoder(tmp_path / "model"), tmp_path / "some.tsv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_can_have_none_or_has_one_is_refused(examples: Path, tmp_path: Path) -> None:
    ClassifierCase("bert").build(tmp_path / "has")
    Case("olmoe").build(tmp_path / "none")
    with pytest.raises(CheckpointError, match="has has a classifier of LABEL_0, LABEL_1; start from the model without"):
        train_classifier(tmp_path / "has", examples, tmp_path / "out")
    with pytest.raises(CheckpointError, match="there is no classifier of olmoe; the families with one are bert"):
        train_classifier(tmp_path / "none", examples, tmp_path / "out")
    with pytest.raises(TextError, match="most is 1, and two labels need two examples"):
        train_classifier(encoder(tmp_path / "model"), examples, tmp_path / "out", most=1)
    assert not (tmp_path / "out").exists()


# --- compressed and scored ------------------------------------------------------------------------------------------


def test_int8_keeps_the_classifier_and_eval_says_what_it_kept(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, learned, small = (tmp_path / name for name in ("model", "learned", "small"))
    train_classifier(encoder(model), examples, learned)
    (tmp_path / "text.txt").write_text(DOCUMENTS)
    compress(learned, small, INT8 | {"evaluation": {"text": [str(tmp_path / "text.txt")]}})
    kept, whole = (dict(read_tensors(open_checkpoint(each))) for each in (small, learned))
    assert all(torch.equal(kept[name], tensor) for name, tensor in whole.items() if name.startswith("classifier."))
    assert open_checkpoint(small).labels == open_checkpoint(learned).labels
    asked = ["eval", str(small), "--against", str(learned), "--tasks", str(valid(examples))]
    assert main([*asked, "--json", str(tmp_path / "out.json")]) == 0
    [task] = json.loads((tmp_path / "out.json").read_text())["tasks"]
    assert task["scores"]["model"]["items"] == 30 and task["scores"]["original"]["score"] > 0.6
    assert task["comparison"]["num_items"] == 30 and task["scores"]["model"]["agreement"] > 0.9
    right = [each.label == line.split("\t")[0] for each, line in zip(
        LLM(learned).classify([line.split("\t")[1] for line in lines(10, 50).splitlines()]),
        lines(10, 50).splitlines(), strict=True,
    )]  # fmt: skip
    assert task["scores"]["original"]["correct"] == {"head": right}
    export(small, tmp_path / "plain", dtype="float32")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain", dtype="float32")
    assert theirs.config.id2label == {0: "digit", 1: "high", 2: "low"}


def test_an_encoder_without_a_classifier_is_scored_with_a_head_of_the_originals(
    examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder(tmp_path / "model")
    (tmp_path / "text.txt").write_text(DOCUMENTS)
    compress(tmp_path / "model", tmp_path / "small", INT8 | {"evaluation": {"text": [str(tmp_path / "text.txt")]}})
    paths = [str(tmp_path / name) for name in ("small", "model")]
    assert main(["eval", paths[0], "--against", paths[1], "--tasks", str(valid(examples))]) == 0
    assert "letters: 30 items, head" in capsys.readouterr().out


def test_a_decoder_with_a_classifier_is_compressed_and_scored(examples: Path, tmp_path: Path) -> None:
    learned = tmp_path / "learned"
    train_classifier(encoder(tmp_path / "model", "llama"), examples, learned)
    (tmp_path / "text.txt").write_text(DOCUMENTS)
    recipe = INT8 | {"evaluation": {"text": [str(tmp_path / "text.txt")]}}
    assert compress(learned, tmp_path / "small", recipe).result["mean_cosine"] > 0.99
    with pytest.raises(RecipeError, match="prune: this model is a classifier, which it does not change"):
        compress(learned, tmp_path / "out", recipe | {"stages": [{"prune": {"remove": 0.25}}]})
    with pytest.raises(CheckpointError, match="has a classifier, which is not written as gguf; export --to dense"):
        export(learned, tmp_path / "out", to="gguf")
    assert main(["eval", str(tmp_path / "small"), "--tasks", str(valid(examples))]) == 0


def test_what_cannot_be_scored_is_refused(examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, learned, many = (str(tmp_path / name) for name in ("model", "learned", "many"))
    train_classifier(encoder(Path(model)), examples, learned)
    ClassifierCase("bert", {"num_labels": 3, "problem_type": "multi_label_classification"}).build(Path(many))
    (tmp_path / "other.tsv").write_text("middle\tlmn\n")
    (tmp_path / "asked.jsonl").write_text('{"context": "a", "continuation": "b"}\n')
    for arguments, words in (
        (
            [learned, "--tasks", str(tmp_path / "other.tsv")],
            "other has the label 'middle', which the classifier has not",
        ),
        ([learned, "--tasks", str(tmp_path / "asked.jsonl")], "asked has questions, which are answered by models that"),
        (
            [many, "--tasks", str(valid(examples))],
            "many is made for multi_label_classification, and texts of one label",
        ),
        ([learned, "--against", model, "--tasks", str(valid(examples))], "model has other labels than learned, or no"),
        ([learned], "learned is an encoder, which predicts no text that could be scored; give labelled texts"),
    ):
        assert main(["eval", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_the_command_says_what_was_learned(examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(encoder(tmp_path / "model")), str(tmp_path / "out")
    assert main(["classifier", model, out, "--examples", str(examples), "--most", "30"]) == 0
    shown = capsys.readouterr().out
    assert (
        "3 labels (digit 10, high 10, low 10)" in shown and "of the 30 examples that it learned from are right" in shown
    )
    assert main(["classifier", model, out, "--examples", str(examples)]) == 2
    assert "exists" in capsys.readouterr().err


def test_the_bench_tells_what_each_form_kept_or_why_it_is_not_there(examples: Path, tmp_path: Path) -> None:
    model = encoder(tmp_path / "model")
    assert bench([str(model), str(valid(examples)), "--out", str(tmp_path / "out.json")]) == 0
    [task] = json.loads((tmp_path / "out.json").read_text())["tasks"]
    first, *others = task["forms"]
    assert first["name"] == "int8" and first["examples"] == 30 and first["bytes"] < first["original_bytes"]
    assert first["kept_interval"]["low"] <= first["kept"] <= first["kept_interval"]["high"]
    assert all("not_here" in each or "kept" in each for each in others)
