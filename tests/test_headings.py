"""What compressed encoder-decoders keep of answers to paragraphs that have a heading."""

import json
from pathlib import Path

import pytest
from builders import llama
from source_cases import SOURCE_CASES

from moesaic.bench.headings import headed
from moesaic.bench.headings import main as bench

PARAGRAPH = "a dog " * 25 + "."
TEXT = f"The Dog\n{PARAGRAPH}\nShort\n\nFar away.\n{PARAGRAPH}\nTwo Cats\n{PARAGRAPH}\nthe end of it\n{PARAGRAPH}\n"


def test_a_heading_is_a_short_line_that_ends_as_no_sentence_above_a_long_one() -> None:
    assert [each["target"] for each in headed(TEXT)] == ["The Dog", "Two Cats"]
    assert {each["source"] for each in headed(TEXT)} == {PARAGRAPH}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_form_is_set_beside_the_model_as_it_came_or_says_why_not(tmp_path: Path) -> None:
    next(case for case in SOURCE_CASES if case.family == "t5").build(tmp_path / "t5")
    text, out = tmp_path / "text.txt", tmp_path / "out.json"
    text.write_text(TEXT)
    assert bench([str(tmp_path / "t5"), str(text), "--calibration-text", str(text), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    first, *others = found["forms"]
    assert found["pairs"] == 2 and first["name"] == "int8" and first["bytes"] < found["original"]["bytes"]
    assert 0 <= first["same_answers"] <= 1 and first["against_original"]["perplexity"]["ratio"] > 0
    assert all("not_here" in each or each["near_original"]["bleu"] <= 100.001 for each in others)


@pytest.mark.parametrize(("named", "told"), [("t5", "fewer than 2 paragraphs"), ("llama", "answers no sources")])
def test_what_gives_no_pairs_is_told(named: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next(case for case in SOURCE_CASES if case.family == "t5").build(tmp_path / "t5")
    llama(tmp_path / "llama")
    text = tmp_path / "text.txt"
    text.write_text("The Dog\nis short\n")
    arguments = [str(tmp_path / named), str(text), "--calibration-text", str(text), "--out", str(tmp_path / "out")]
    assert bench(arguments) == 2 and told in capsys.readouterr().err and not (tmp_path / "out").exists()
