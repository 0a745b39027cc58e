"""`moesaic inspect` on a model that went through stages: tables for people, and every figure of them in the JSON."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from family_cases import Case

from moesaic.cli.inspect_record import print_record
from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.models.record import Record, StageRecord

NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e-\d+)?(?![\w.])%?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("inspected") / "model"
    compress("stories260k", out, {
        "calibration": {"sequences": 8, "length": 48}, "evaluation": {"documents": 1, "truncate": 24}, "seed": 3,
        "stages": [
            {"prune": {"remove": 0.1}},
            {"moefy": {"expert_size": 1, "router": "bit_planes", "tiers": {"high": 0.7, "low": 0.48}}},
            {"quantize": {"linears": "int8"}},
        ],
    })  # fmt: skip
    return out


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["inspect", *arguments]) == 0
    return capsys.readouterr().out


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Heads and rows; columns stand two spaces or more apart."""
    blocks = (block.splitlines() for block in re.split(r"\n\n", text))
    for block in blocks:
        for i, line in enumerate(block):
            if re.fullmatch(r"-+(  -+)+", line):
                yield re.split(r" {2,}", block[i - 1].strip()), [re.split(r" {2,}", row) for row in block[i + 1 :]]


def numbers(values: Any) -> Iterator[float]:
    """All that stand in it, and how long its lists are."""
    if isinstance(values, list):
        yield float(len(values))
    if isinstance(values, dict | list):
        for each in values.values() if isinstance(values, dict) else values:
            yield from numbers(each)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield float(values)


def is_among(text: str, known: list[float]) -> bool:
    """Whether one of the known numbers is written so."""
    value = float(text.rstrip("%").replace(",", "")) / (100 if text.endswith("%") else 1)
    decimals = len(text.rstrip("%").partition(".")[2]) + (2 if text.endswith("%") else 0)
    step = 10.0**-decimals if "e" not in text else abs(value) * 1e-4
    return any(abs(value - each) <= 0.51 * step for each in known)


def test_everything_comes_as_a_table(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, str(model), "--experts")
    heads = [head[0] for head, _ in tables(shown)]
    assert heads == ["layers", "layer", "tier", "after", "stage", "stage"]
    assert "{" not in shown and '"' not in shown and "None" not in shown


def test_stages_are_shown_with_what_they_cost_and_kept(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {head[0]: rows for head, rows in tables(printed(capsys, str(model)))}["after"]
    stages = [row[0] for row in rows if not row[0].startswith("scored on")]
    assert stages == ["original", "prune", "moefy", "quantize", "calibrate"]
    assert rows[1][1] == "3" and rows[-1] == ["scored on 23 tokens of 1 documents"]


def test_settings_that_were_left_open_take_no_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, str(model))
    assert re.search(r"^moefy +tiers\.low +0\.48$", shown, re.MULTILINE) and "split_active" not in shown
    assert re.search(r"^prune +widths +\d+ to \d+ in 5 layers$", shown, re.MULTILINE)


@pytest.mark.parametrize("options", [["--experts"], ["--experts", "--text", "--tokens", "96"]])
def test_every_figure_of_the_tables_is_in_the_json(
    options: list[str], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(capsys, str(model), *options)
    known = list(numbers(json.loads(printed(capsys, str(model), *options, "--json"))))
    cells = [cell for _, rows in tables(shown) for row in rows for cell in row[1:]]
    figures = [each for cell in cells for each in NUMBER.findall(cell)]
    assert len(figures) > 100
    assert [each for each in figures if not is_among(each, known)] == []


def test_a_figure_that_is_nowhere_is_noticed() -> None:
    assert is_among("12.35%", [0.12348]) and is_among("1,024", [1024.0]) and is_among("2e-05", [2e-5])
    assert not is_among("12.35%", [12.35]) and not is_among("0.5", [0.56, 0.44])


def test_a_record_with_other_figures_than_ours_is_shown_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"result": 5, "weight_bytes": "many", "original": {"perplexity": "low", "tokens": None}}
    print_record(Record(stages=(StageRecord("odd", {"a": {"b": [1, "x"]}, "c": {}}, 0, "", measured),)))
    shown = capsys.readouterr().out
    assert re.search(r"^odd +0$", shown, re.MULTILINE) and re.search(r"^odd +a\.b +1, x$", shown, re.MULTILINE)


def test_what_a_layer_has_beyond_llamas_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Case("gemma2").build(tmp_path)
    shown = printed(capsys, str(tmp_path))
    assert "a step on a CPU: one call of C++" in shown
    assert (
        "a window of 7 in 2 of 3 layers, scores up to 50, logits up to 30, norms before and after each block" in shown
    )


def test_a_model_that_no_program_takes_is_told_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Case("qwen3", {"head_dim": 272, "num_hidden_layers": 1}).build(tmp_path)
    why = "its heads have 272 values, and the most is 256"
    assert f"a step on a CPU: module by module, since {why}" in printed(capsys, str(tmp_path))
    llm = LLM(tmp_path)
    assert llm.description.without_program == why
    assert len(llm.generate([[5, 6, 7]], max_new_tokens=3, temperature=0, ignore_eos=True)[0].token_ids) == 3


def test_a_mixture_is_told_by_its_experts_and_its_neurons_are_not_watched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Case("mixtral").build(tmp_path)
    shown = printed(capsys, str(tmp_path))
    assert "2 of 5 x 24 gated" in shown and "a step on a CPU: one call of C++" in shown
    for options in (["--experts", "--text"], ["--memory", "0:1"]):
        assert main(["inspect", str(tmp_path), *options]) != 0
        assert "neurons are watched in dense ones only" in capsys.readouterr().err
