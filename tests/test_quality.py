"""BLEU and chrF of what encoder-decoders answer: sacrebleu's figures, what their differences are worth, in reports."""

import json
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from source_cases import SOURCE_CASES

from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.evaluate.pairs import answered
from moesaic.evaluate.quality import Quality, compare_quality
from moesaic.evaluate.statistics import compare_means, compare_sums
from moesaic.models.checkpoint import load, open_checkpoint

TARGETS = ["Der Hund ist sehr klein.", "Das Haus steht am alten Fluss.", "Ich lese gern Bücher im Garten.", "Ja."] * 5
ANSWERS = ["Der Hund ist klein.", "Das Haus steht am Fluss.", "Ich lese Bücher im Garten.", ""] * 5
PAIRS = [("Good morning", "Guten Morgen"), ("a dog", "ein Hund"), ("two small dogs", "zwei kleine Hunde")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5, and pairs."""
    where = tmp_path_factory.mktemp("quality")
    next(case for case in SOURCE_CASES if case.family == "t5").build(where / "t5")
    lines = [json.dumps({"source": source, "target": target}) for source, target in PAIRS]
    (where / "pairs.jsonl").write_text("\n".join(lines))
    return where


def test_figures_are_those_of_sacrebleu() -> None:
    found = Quality.of(ANSWERS, TARGETS)
    assert found.summary() == {
        "bleu": BLEU().corpus_score(ANSWERS, [TARGETS]).score,
        "chrf": CHRF().corpus_score(ANSWERS, [TARGETS]).score,
    }
    assert found.signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp")


def test_answers_that_miss_a_word_are_behind_and_nothing_is_behind_itself() -> None:
    best, worse = Quality.of(TARGETS, TARGETS), Quality.of(ANSWERS, TARGETS)
    found, same = compare_quality(worse, best), compare_quality(worse, worse)
    assert {name: each.sign for name, each in found.items()} == {"bleu": -1, "chrf": -1}
    assert found["bleu"].difference == pytest.approx(worse.summary()["bleu"] - 100)
    assert all(each.difference == 0 == each.sign for each in same.values())


def test_a_mean_made_of_sums_has_the_interval_of_the_mean() -> None:
    ours, theirs, weights = np.random.default_rng(0).integers(1, 9, (3, 40)).astype(float)
    mine, other = (np.stack([each, weights], axis=1) for each in (ours, theirs))
    assert compare_sums(mine, other, lambda row: float(row[0] / row[1])) == compare_means(ours, theirs, weights)


def test_the_model_s_own_answers_are_scored_and_reported_beside_the_original(folder: Path, tmp_path: Path) -> None:
    model, out = str(folder / "t5"), tmp_path / "report"
    assert main(["eval", model, "--against", model, "--text", str(folder / "pairs.jsonl"), "--report", str(out)]) == 0
    found, page = json.loads((out / "report.json").read_text()), (out / "report.html").read_text()
    longest = max(row["tokens"] for row in found["scores"]["model"]["per_document"])
    expected = [each.text for each in LLM(model).generate([source for source, _ in PAIRS], max_new_tokens=2 * longest)]
    assert [row["answer"] for row in found["scores"]["model"]["per_document"]] == expected
    assert found["chrf"] == CHRF().corpus_score(expected, [[target for _, target in PAIRS]]).score
    assert found["comparisons"]["bleu"]["difference"] == 0 and found["not_measured"] == []
    assert ">BLEU</th>" in page and "chrF against the original: +0.0000" in page


def test_without_sacrebleu_the_rest_is_measured_and_the_way_to_get_it_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moesaic.models.extras.find_spec", lambda name: None)
    monkeypatch.setattr("moesaic.evaluate.pairs.answered", lambda *_: pytest.fail("nothing is to be answered"))
    command = ["eval", str(folder / "t5"), "--text", str(folder / "pairs.jsonl"), "--json", str(tmp_path / "found")]
    assert main(command) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found").read_text())
    assert said.count(" not measured") == 3 and "pip install 'moesaic[eval]'" in said
    assert found["perplexity"] > 1 and "bleu" not in found and "sacrebleu" in found["not_measured"][0]


def test_answers_are_of_the_tier_that_is_scored(folder: Path, tmp_path: Path) -> None:
    out, stages = tmp_path / "tiers", [{"quantize": {"linears": "int8"}}, {"moefy": {"tiers": {"low": 0.5}}}]
    (tmp_path / "text.txt").write_text("Once upon a time, there was a little girl.\n" * 20)
    compress(folder / "t5", out, {"evaluation": {"text": [str(tmp_path / "text.txt")]}, "stages": stages})
    checkpoint, model, llm = open_checkpoint(out), load(out), LLM(out)
    model.operating_point = checkpoint.operating_point("low")
    ids = [llm.tokenizer.encode(source) for source, _ in PAIRS]
    found = [pair.answer for pair in answered(checkpoint, model, ids, 20)]
    each = {tier: [a.token_ids for a in llm.generate(ids, max_new_tokens=20, tier=tier)] for tier in ("full", "low")}
    assert each["low"] == found != each["full"]
