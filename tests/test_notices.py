"""What must be known of a result first: fits on too little text, and stages that cost more than they save."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import llama
from safetensors.torch import load_file, save_file

from moesaic.cli.main import main
from moesaic.compress.judge import Judge
from moesaic.compress.pipeline import Compression, compress
from moesaic.compress.recipe import read_recipe
from moesaic.compress.run import Run
from moesaic.compress.stage import FewTokensWarning
from moesaic.models.checkpoint import open_checkpoint
from moesaic.models.errors import OutputError

INT8 = {"quantize": {"linears": "int8"}}
TIERS = {"high": 0.7, "low": 0.5}
PLANES = {"moefy": {"bits": 3, "tiers": TIERS}}
ROUTED = {"moefy": {"expert_size": 16, "tiers": TIERS}}
PRUNE = {"prune": {"remove": 0.2}}
TEXTS: dict[str, Any] = {
    "calibration": {"sequences": 16, "length": 64}, "evaluation": {"documents": 16, "truncate": 128},
}  # fmt: skip
COSTLY: dict[str, Any] = {**TEXTS, "stages": [PRUNE, PLANES, INT8]}


def silent(what: str, done: int, total: int) -> None:
    pass


def few(stages: list[dict[str, Any]], sequences: int, length: int = 32, **texts: Any) -> str:
    recipe = {"calibration": {"sequences": sequences, "length": length, **texts}, "stages": stages}
    return Run(open_checkpoint("stories260k"), read_recipe(recipe), silent).few_tokens()


# --- too little text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([PRUNE], ["prune: means and variances of neurons (1,024 are enough"]),
        ([{"prune": {"method": "magnitude", "remove": 0.2}}], ["prune: means and variances of neurons"]),
        (
            [ROUTED],
            ["moefy: which neurons fire together (144 are", "calibrate: routers (1,024 are enough: 16 for each"],
        ),
        ([{"moefy": {**ROUTED["moefy"], "split": "patterns"}}], ["moefy: which neurons fire together (288 are enough"]),
        ([PLANES, INT8], ["calibrate: thresholds of tiers (1,024 are", "calibrate: what the high bits are worth (512"]),
        ([{"distill": {"tokens": 64, "at": {"share": 0.7}}}], ["distill: thresholds of tiers (1,024 are enough"]),
        (
            [{"distill": {"tokens": 64, "at": {"share": 0.7, "grain": "neurons"}}}],
            ["distill: thresholds", "distill: importance"],
        ),
    ],
)
def test_each_statistic_on_a_handful_of_tokens_is_told_with_what_is_enough(stages: Any, told: list[str]) -> None:
    found = few(stages, sequences=1)
    assert found.startswith("calibrated on 32 tokens of calibration.txt, too few for ")
    assert all(each in found for each in told) and found.endswith("; raise calibration.sequences to 32")


@pytest.mark.parametrize("stages", [[PRUNE], [ROUTED], [PLANES, INT8], [PRUNE, PLANES, INT8]])
def test_enough_tokens_are_no_matter(stages: Any) -> None:
    assert few(stages, sequences=32) == "" != few(stages, sequences=31)


def test_a_text_that_has_no_more_is_to_be_longer(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("The old horse stood at the gate and waited for the boy. " * 20)
    found = few([PRUNE], sequences=4000, text=[str(tmp_path / "short.txt")])
    assert "of short.txt, too few" in found and found.endswith("give longer text, enough for 32 windows")


def test_where_nothing_is_fitted_no_text_is_read(tmp_path: Path) -> None:
    assert few([INT8, ], sequences=1, text=["/nowhere"]) == ""  # fmt: skip
    assert few([{"prune": {"method": "random", "remove": 0.1, "compensate": False}}], 1, text=["/nowhere"]) == ""


@pytest.mark.parametrize("dry_run", [True, False])
def test_too_few_tokens_warn_before_the_work_and_are_written_down(tmp_path: Path, dry_run: bool) -> None:
    recipe = {**TEXTS, "calibration": {"sequences": 2, "length": 32}, "stages": [{"prune": {"remove": 0.01}}]}
    with pytest.warns(FewTokensWarning, match="calibrated on 64 tokens"):
        done = compress("stories260k", tmp_path / "out", recipe, dry_run=dry_run)
    assert dry_run or done.notices[0].startswith("calibrated on 64 tokens")


# --- stages that cost more than they save --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costly(tmp_path_factory: pytest.TempPathFactory) -> Compression:
    return compress("stories260k", tmp_path_factory.mktemp("costly") / "out", COSTLY)


def test_a_stage_that_loses_at_equal_bytes_is_told_with_what_wins(costly: Compression) -> None:
    (told,) = costly.notices
    assert (
        told.startswith("At equal bytes this recipe without prune keeps more than this result") and "prune +0." in told
    )
    assert "full (0.800 of the bytes) x1." in told and "It has no tier as low as low (0.4" in told
    assert "To have it: delete prune from its stages." in told and told.endswith("95 % intervals over documents.")


def test_what_is_told_was_measured(costly: Compression) -> None:
    rest = compress("stories260k", costly.out.parent / "rest", {**TEXTS, "stages": [PLANES, INT8]})
    ratio = costly.result["perplexity"] / costly.tiers["high"]["perplexity"]
    judge = Judge(open_checkpoint("stories260k"), costly.recipe.evaluation, silent)
    at = judge.score_at("", open_checkpoint(rest.out), open_checkpoint(rest.out).dial.operating_point(None, 0.8))
    assert f"x{costly.result['perplexity'] / at.perplexity:.4f}" in costly.notices[0] and ratio < 1
    assert at.shares[0] == pytest.approx(0.8, abs=0.02) and rest.notices == ()


def test_the_notice_is_the_first_that_is_seen_in_every_place(
    costly: Compression, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(COSTLY))
    arguments = ["compress", "stories260k", str(costly.out), "--recipe", str(tmp_path / "recipe.yaml")]
    assert main([*arguments, "--report", str(tmp_path / "report")]) == 0
    assert capsys.readouterr().out.split("\n")[1].startswith("note: At equal bytes this recipe without prune")
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.index("At equal bytes this recipe without prune") < page.index("<table")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["notices"] == list(costly.notices)
    assert open_checkpoint(costly.out).record.notices == costly.notices
    assert (
        main(["inspect", str(costly.out)]) == 0
        and "note: At equal bytes this recipe without prune" in capsys.readouterr().out
    )


def test_a_recipe_that_ships_is_named_where_it_wins(tmp_path: Path) -> None:
    stages = [{"distill": {"tokens": 1024, "lr": 0.05, "batch": 2}}, INT8]
    done = compress("stories260k", tmp_path / "out", {"stages": stages, "evaluation": TEXTS["evaluation"]})
    assert "At equal bytes the recipe 'int8' keeps more" in done.notices[0]
    assert "To have it: --recipe int8." in done.notices[0]


def test_a_stage_that_alone_made_it_worse_is_judged_though_the_next_one_helped(tmp_path: Path) -> None:
    stages = [PRUNE, {"distill": {"tokens": 1024, "lr": 1.0e-3, "batch": 2}}, PLANES, INT8]
    (told,) = compress("stories260k", tmp_path / "out", {**TEXTS, "stages": stages}).notices
    assert "this recipe without prune and distill keeps more" in told
    assert "prune +0." in told and "distill -0." in told and "together +0." in told


def test_a_loss_inside_the_noise_is_not_called_one_and_nothing_else_is_made(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = {**COSTLY, "stages": [{"prune": {"remove": 0.006}}, PLANES, INT8]}
    done = compress("stories260k", tmp_path / "out", recipe, lambda what, done, total: said.append(what))
    assert done.notices == () and not any("without" in each for each in said)


def test_neurons_that_do_nothing_are_pruned_without_a_word(tmp_path: Path) -> None:
    llama(tmp_path / "model", num_hidden_layers=1, intermediate_size=160)
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.mlp.down_proj.weight"][:, ::2] = 0
    save_file(weights, file, metadata={"format": "pt"})
    recipe = {**TEXTS, "stages": [{"prune": {"remove": 0.5}}, PLANES, INT8]}
    assert compress(tmp_path / "model", tmp_path / "out", recipe).notices == ()


@pytest.mark.parametrize("stages", [[PRUNE], [PRUNE, INT8], [PLANES, INT8]])
def test_without_a_rival_of_equal_bytes_nothing_is_claimed(tmp_path: Path, stages: Any) -> None:
    assert compress("stories260k", tmp_path / "out", {**TEXTS, "stages": stages}).notices == ()


def test_a_rival_is_left_out_on_request(tmp_path: Path) -> None:
    assert compress("stories260k", tmp_path / "out", COSTLY, rival=False).notices == ()


def test_where_the_stages_pay_elsewhere_both_are_told(
    costly: Compression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Judge.score_at

    def worse_at_high(self: Judge, what: str, checkpoint: Any, point: float) -> Any:
        found = right(self, what, checkpoint, point)
        far = tuple(replace(each, nats=2 * each.nats) for each in found.documents)
        return replace(found, documents=far) if "0.800" not in what else found

    monkeypatch.setattr(Judge, "score_at", worse_at_high)
    (told,) = compress("stories260k", tmp_path / "out", COSTLY).notices
    assert "beside its is: full (0.800" in told and "It keeps less: high (0.5" in told


def test_a_rival_that_cannot_be_made_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Run) -> Any:
        raise OutputError("the disk is full")

    monkeypatch.setattr(Run, "checkpoint", full)
    (told,) = compress("stories260k", tmp_path / "out", COSTLY).notices
    assert "prune +0." in told and told.endswith("cannot be measured: the disk is full")
