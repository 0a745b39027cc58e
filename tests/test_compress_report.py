"""Tiers are held against other ways to the same bytes, and a report says no more than what was measured."""

import html
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from moesaic.bench.controls.collect import Report, collect
from moesaic.bench.controls.derive import (
    ALONE,
    GROUPS,
    RANDOM_EXPERTS,
    ROUTERS,
    STATIC,
    STATIC_DISTILLED,
    each_alone,
    experts_of_64,
    groups_for,
    static_pruning,
)
from moesaic.bench.controls.effort import control_seconds
from moesaic.bench.controls.report import FORMATS, control_rows, notes, page, verdict_rows, write_report
from moesaic.cli import compress as command
from moesaic.cli.main import main
from moesaic.compress.pipeline import Compression, compress
from moesaic.compress.recipe import read_recipe
from moesaic.compress.run import Estimate
from moesaic.engine.lockstep import Lockstep
from moesaic.evaluate.compare import AHEAD, BEHIND, NO_DIFFERENCE, TOP1, compare_scores, verdict
from moesaic.evaluate.score import DocumentScore, Score
from moesaic.evaluate.speed import Contestant, decode_speeds
from moesaic.kernels.cache import cache_folder
from moesaic.kernels.planes.bytes import FFNShape, constant_bytes, int8_ffn_bytes
from moesaic.models.checkpoint import load_transformer, open_checkpoint
from moesaic.models.errors import RecipeError, SetupError, TextError

TEXTS: dict[str, Any] = {
    "calibration": {"sequences": 12, "length": 48},
    "evaluation": {"documents": 10, "truncate": 64},
}
INT8 = {"quantize": {"linears": "int8"}}
TIERS = {"high": 0.7, "low": 0.5}
MOE = {"moefy": {"expert_size": 1, "router": "bit_planes", "router_width": 128, "tiers": TIERS}}  # of controls
RECIPE = {**TEXTS, "stages": [{"prune": {"remove": 0.05}}, MOE, INT8]}
ALL = groups_for(read_recipe(RECIPE))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Compression:
    return compress("stories260k", tmp_path_factory.mktemp("stories") / "moe", RECIPE)


@pytest.fixture(scope="module")
def report(done: Compression) -> Report:
    return collect("stories260k", done, ALL)


def of(report: Report, name: str, tier: str = "") -> Any:
    (found,) = [each for each in report["controls"] if each["name"] == name and each["tier"] in (tier, "")]
    return found


def tier_of(report: Report, name: str) -> Any:
    return next(each for each in report["tiers"] if each["name"] == name)


# --- controls ------------------------------------------------------------------------------------------------------


def test_every_group_has_its_controls(report: Report) -> None:
    assert [each["name"] for each in report["controls"] if each["group"] == ALONE] == [
        "only prune", "only moefy with quantize", "only moefy with quantize", "only quantize",
    ]  # fmt: skip
    assert {each["group"] for each in report["controls"]} == set(ALL) == set(GROUPS) - {STATIC_DISTILLED}
    assert all(each["reason"] or each["figures"]["tokens"] > 300 for each in report["controls"])


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["static pruning", "static pruning by magnitude", "static pruning by chance"])
def test_static_pruning_takes_the_bytes_that_the_tier_reads(report: Report, name: str, tier: str) -> None:
    static, ours = of(report, name, tier), tier_of(report, tier)
    assert static["tier_bytes"] == pytest.approx(ours["tier_bytes"], rel=0.01)
    assert static["tier_bytes"] == int(static["tier_bytes"]) and static["neurons_share"] < 0.9
    share = ours["figures"]["bytes_share"] * tier_of(report, "full")["bytes_share"]
    assert ours["bytes_share"] == pytest.approx(share)


@pytest.mark.parametrize("tier", TIERS)
def test_a_perfect_router_is_at_least_as_good_as_chance_for_the_same_neurons(report: Report, tier: str) -> None:
    perfect, chance = of(report, "perfect router", tier), of(report, "random router", tier)
    assert perfect["figures"]["top1_accuracy"] >= chance["figures"]["top1_accuracy"]
    assert perfect["figures"]["perplexity"] < chance["figures"]["perplexity"]
    for each in (perfect, chance):
        assert each["neurons_share"] == pytest.approx(tier_of(report, tier)["neurons_share"], abs=0.03)
        figures = each["figures"]
        constant = constant_bytes(64) / int8_ffn_bytes(FFNShape(64, 172, gated=True))  # no router is read
        assert figures["bytes_share"] == pytest.approx(figures["neurons_share"] + constant, abs=1e-3)


def test_a_control_that_cannot_run_is_named_with_its_reason(report: Report) -> None:
    for name in ("experts of 64", "random experts of 64"):
        assert "raise the tier, or lower router_width" in of(report, name, "low")["reason"]
        assert "figures" in of(report, name, "high") and not of(report, name, "high")["reason"]
        assert any(line.startswith(f"{name}, low: not run: moefy: tier 'low'") for line in notes(report))
        assert [name, "low", *[""] * 7, "not run"] in control_rows(report)[1]


def test_a_report_names_no_split_for_experts_by_chance() -> None:
    recipe = experts_of_64(read_recipe(RECIPE), ["high"], RANDOM_EXPERTS).recipe.model_dump()
    (settings,) = [stage["moefy by chance"] for stage in recipe["stages"] if "moefy by chance" in stage]
    assert settings["split"] is None and settings["expert_size"] == 64


def test_static_pruning_that_would_leave_too_little_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesaic.bench.controls.run.Controls._removal", lambda *_: 0.999)
    least = {"moefy": {**MOE["moefy"], "bits": 1, "tiers": {"least": 0.25}}}
    made = compress("stories260k", tmp_path / "out", {**TEXTS, "stages": [least, INT8]})
    found = collect("stories260k", made, [STATIC])
    reason = of(found, "static pruning", "least")["reason"]
    assert "remove asks for" in reason and any(reason in line for line in notes(found))


def test_a_method_alone_that_is_the_recipe_says_so(tmp_path: Path) -> None:
    made = compress("stories260k", tmp_path / "out", {**TEXTS, "stages": [INT8]})
    found = collect("stories260k", made, [ALONE])
    assert [(each["name"], each["reason"]) for each in found["controls"]] == [
        ("only quantize", "this is the recipe itself")
    ]
    write_report(found, tmp_path / "report")
    assert "only quantize: not run: this is the recipe itself" in (tmp_path / "report" / "report.html").read_text()


def test_what_was_scored_is_not_scored_again(done: Compression, report: Report) -> None:
    again = collect("stories260k", done, ALL, lambda what, *_: pytest.fail(what), lambda each: pytest.fail(each.stage))
    assert again == report


def test_a_recipe_without_tiers_is_held_against_pruning_to_its_own_bytes(tmp_path: Path) -> None:
    made = compress("stories260k", tmp_path / "out", {**TEXTS, "stages": [{"prune": {"remove": 0.3}}]})
    found = collect("stories260k", made, groups_for(made.recipe))
    static = [each for each in found["controls"] if each["group"] == STATIC]
    assert [each["tier"] for each in static] == ["full"] * 3 and found["speed"] is None
    assert all(each["reason"] or each["tier_bytes"] == tier_of(found, "full")["tier_bytes"] for each in static)
    assert sum("figures" in each for each in static) >= 2
    assert {row[0] for row in verdict_rows(found)[1]} == {"full"}


def test_a_recipe_that_reads_every_neuron_whole_has_no_static_control() -> None:
    assert groups_for(read_recipe("int8")) == (ALONE,)
    with pytest.raises(
        RecipeError, match="controls 'static': this recipe has no tiers and no pruning; .* among alone$"
    ):
        groups_for(read_recipe("int8"), [STATIC])


@pytest.mark.parametrize("group", ["routers", "experts-of-64", "random-experts", "static-distilled"])
def test_controls_that_say_nothing_of_a_recipe_are_refused_before_any_work(
    group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", "stories260k", str(tmp_path / "out"), "--recipe", "prune25", "--controls", group]) == 2
    shown = capsys.readouterr().err
    assert f"controls {group!r}: this recipe has no " in shown and "choose among alone, static\n" in shown
    assert shown.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_recipe_that_distils_has_a_static_control_that_learned_as_much() -> None:
    recipe = read_recipe({"stages": [{"distill": {"tokens": 10}}, MOE, INT8]})
    names = [
        [stage.name for stage in static_pruning(recipe, 0.3, distilled=trained).recipe.stages]
        for trained in (False, True)
    ]
    assert names == [["prune", "quantize"], ["prune", "distill", "quantize"]]
    assert [variant.name for variant in each_alone(recipe)][0] == "only distill"


def test_controls_without_bit_planes_are_not_distilled_at_a_tier_of_theirs() -> None:
    distill = {"distill": {"tokens": 10, "at": {"share": 0.5}}}
    planes = {"moefy": {"expert_size": 1, "router": "bit_planes", "allocation": "global", "tiers": {"low": 0.5}}}
    recipe = read_recipe({"stages": [distill, planes, INT8]})
    for variant in (static_pruning(recipe, 0.3, distilled=True), experts_of_64(recipe, ["low"])):
        [settings] = [stage.values for stage in variant.recipe.stages if stage.name == "distill"]
        assert settings["tokens"] == 10 and settings["at"] is None


def test_unknown_controls_are_refused_with_what_was_meant() -> None:
    with pytest.raises(RecipeError, match="no controls 'statik'; did you mean 'static'"):
        groups_for(read_recipe(RECIPE), ["statik"])


# --- intervals -----------------------------------------------------------------------------------------------------


def scores(nats: float, correct: int, jitter: float = 0.0) -> Score:
    rows = [DocumentScore(10, 20 + nats + jitter * (-1) ** i, correct + (i % 2)) for i in range(20)]
    return Score(tuple(rows), pieces=tuple(rows))


@pytest.mark.parametrize(
    ("ours", "expected"),
    [(scores(-1, 6), AHEAD), (scores(1, 3), BEHIND), (scores(0, 5, jitter=1.0), NO_DIFFERENCE)],
)
def test_a_win_inside_the_noise_is_not_called_a_win(ours: Score, expected: str) -> None:
    over, found = compare_scores(ours, scores(0, 5))
    assert over == "documents" and {verdict(name, each) for name, each in found.items()} == {expected}


def test_tiers_are_held_against_the_original_and_against_every_control_beside_them(report: Report) -> None:
    low, static = tier_of(report, "low"), of(report, "static pruning", "low")
    assert low["against_original"]["over"] == "documents" and low["against_original"]["perplexity"]["num_items"] == 10
    ratio = low["figures"]["perplexity"] / static["figures"]["perplexity"]
    assert static["tier_against_it"]["perplexity"]["ratio"] == pytest.approx(ratio)
    assert static["tier_against_it"]["perplexity"]["verdict"] in (AHEAD, BEHIND, NO_DIFFERENCE)
    assert of(report, "only prune")["tier_against_it"] is None


def test_too_short_a_text_shows_no_difference_and_says_so(tmp_path: Path) -> None:
    short = {"stages": [INT8], "evaluation": {"documents": 1, "truncate": 16}}
    found = collect("stories260k", compress("stories260k", tmp_path / "out", short))
    assert any("too short for intervals" in line for line in notes(found))


def test_a_tier_is_listed_under_what_it_lost_to_as_well(report: Report) -> None:
    head, rows = verdict_rows(report)
    assert head[2:] == [AHEAD, NO_DIFFERENCE, BEHIND] and [row[:2] for row in rows[:2]] == [
        ["high", "perplexity"], ["high", "top-1"],
    ]  # fmt: skip
    cells = [
        (row[0], said, cell) for row in rows if row[1] == "top-1" for said, cell in zip(head[2:], row[2:], strict=True)
    ]
    listed = {(tier, name, said) for tier, said, cell in cells for name in cell.split("; ") if name}
    beside = [each for each in report["controls"] if each.get("tier_against_it")]
    assert listed == {(each["tier"], each["name"], each["tier_against_it"][TOP1]["verdict"]) for each in beside}
    assert ("low", "perfect router", BEHIND) in listed or ("low", "perfect router", NO_DIFFERENCE) in listed


def test_text_that_choices_have_seen_is_told(tmp_path: Path, report: Report) -> None:
    seen = " ".join(f"word{i} went there and came back again" for i in range(400))
    (tmp_path / "seen.txt").write_text(seen)
    texts = {name: {**TEXTS[name], "text": [str(tmp_path / "seen.txt")]} for name in TEXTS}
    found = collect("stories260k", compress("stories260k", tmp_path / "out", {**texts, "stages": [INT8]}))
    assert found["evaluation"]["overlap_with_calibration"] > 0.9  # the last word is cut
    assert any("% of the words that were scored lie in runs" in line for line in notes(found))
    assert report["evaluation"]["overlap_with_calibration"] == 0.0
    assert any("no run of 13 words of it is in the text that was scored" in line for line in notes(report))


# --- speed ---------------------------------------------------------------------------------------------------------


def test_every_tier_is_timed_at_itself_beside_the_original(done: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, float]] = []
    decode = Lockstep.decode

    def spy(self: Lockstep, ids: Any, position: int, operating_point: float) -> Any:
        used.append((self.runner.model.spec.num_tiers, operating_point))
        return decode(self, ids, position, operating_point)

    monkeypatch.setattr(Lockstep, "decode", spy)
    found = collect("stories260k", done, speed_rounds=1)
    rows = found["speed"]["rows"]
    assert set(used) == {(1, 0), (3, 0), (3, 1), (3, 2)}
    assert [row["name"] for row in rows[::2]] == ["original", "full", *TIERS] and {row["batch"] for row in rows} == {
        1,
        4,
    }
    assert all(row["best_tokens_per_second"] >= row["tokens_per_second"] > 0 for row in rows)
    assert [row["times_full"] for row in rows if row["name"] == "full"] == [1.0, 1.0]
    assert "<h2>Speed" in page(found, b"") and any(line.startswith("Speed is of greedy") for line in notes(found))


def test_documents_too_short_to_prompt_with_are_refused() -> None:
    model = load_transformer(open_checkpoint("stories260k"), torch.device("cpu"))
    with pytest.raises(TextError, match="no document has a token"):
        decode_speeds({"": Contestant(model)}, [[]])


# --- files ---------------------------------------------------------------------------------------------------------


def test_every_number_on_the_page_comes_from_the_json(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path)
    values = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    shown = re.sub(r"<style>.*?</style>|<img[^>]*>", " ", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    allowed = {"95", "1", "0", "13"}  # of the sentences on intervals and overlap
    for leaf in leaves(values):
        forms = FORMATS.values() if isinstance(leaf, float | int) and not isinstance(leaf, bool) else []
        allowed |= numbers(" ".join([str(leaf), *(form.format(leaf) for form in forms)]))
    allowed |= numbers(yaml.safe_dump(values["recipe"]))
    assert numbers(unescape(re.sub("<[^>]*>", " ", shown))) <= allowed
    assert len(numbers(shown)) > 100


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)
    elif value is not None:
        yield value


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,.]*(?<![,.])", text))


def test_page_and_picture_are_made_anew_from_the_json_alone(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "first")
    values = json.loads((tmp_path / "first" / "report.json").read_text())
    write_report(values, tmp_path / "again")
    for name in ("report.json", "report.html", "report.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert "http" not in (tmp_path / "again" / "report.html").read_text()


def test_the_page_shows_recipe_stages_text_and_versions(report: Report) -> None:
    shown = unescape(page(report, b""))
    recorded = [stage["name"] for stage in report["stages"]]
    assert recorded == ["prune", "moefy", "quantize", "calibrate"]
    assert all(stage["weight_bytes"] and stage["figures"]["perplexity"] > 1 for stage in report["stages"])
    assert f"of {report['evaluation']['documents']} documents of black_beauty.txt" in shown
    assert f"torch {torch.__version__}" in shown and "router: bit_planes" in shown


def test_without_controls_the_report_shows_what_there_is_and_says_what_there_is_not(done: Compression) -> None:
    found = collect("stories260k", done)
    assert found["controls"] == [] and "<h2>Controls" not in page(found, b"")
    assert any(line.startswith("No controls were run") for line in notes(found))


def test_a_report_without_matplotlib_says_so_and_writes_nothing(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SetupError, match=r"pip install 'moesaic\[report\]'"):
        write_report(report, tmp_path / "report")
    assert main(["compress", "stories260k", str(tmp_path / "out"), "--report", str(tmp_path / "report")]) == 2
    assert "--report needs matplotlib, which is not installed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_that_are_no_numbers_leave_no_report(report: Report, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_report({**report, "calibration": float("nan")}, tmp_path / "report")
    assert not list(tmp_path.iterdir())


# --- the command ---------------------------------------------------------------------------------------------------


def written(recipe: Any, folder: Path) -> str:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "recipe.yaml")


def test_compress_lists_tiers_and_writes_a_report(
    done: Compression, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = written(RECIPE, tmp_path)
    arguments = ["compress", "stories260k", str(done.out), "--recipe", recipe, "--report", str(tmp_path / "report")]
    assert main([*arguments, "--controls", "routers"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^low +0\.\d{3} +0\.\d{3} +[\d.]+ +[\d.]+% +0\.\d{4} +0\.\d{5}$", shown, re.MULTILINE)
    assert "perfect router" in shown and "static pruning" not in shown
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {each["group"] for each in values["controls"]} == {ROUTERS}
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_another_text_to_score_on_is_named_and_used(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"The {name} stood by the gate and waited for rain. " * 20)
    texts = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    recipe, out = written({**TEXTS, "stages": [INT8]}, tmp_path), tmp_path / "out"
    arguments = ["compress", "stories260k", str(out), "--recipe", recipe, "--report", str(tmp_path / "report")]
    assert main([*arguments, "--text", *texts]) == 0
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert values["evaluation"]["documents"] == 2 and f"--text {shlex.join(texts)}" in values["command"]


def test_a_dry_run_says_what_each_stage_takes_and_what_is_done(
    done: Compression, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = {**RECIPE, "stages": [*RECIPE["stages"][:2], {"quantize": {"linears": "int8", "embeddings": False}}]}
    assert (
        main(["compress", "stories260k", str(tmp_path / "out"), "--recipe", written(longer, tmp_path), "--dry-run"])
        == 0
    )
    shown = capsys.readouterr().out
    assert re.search(r"^prune +done +[\d,]+$", shown, re.MULTILINE)
    assert re.search(r"^calibrate +[\d.]+ s +[\d,]+ +[\d,]+$", shown, re.MULTILINE)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_each_group_of_controls_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = written({**RECIPE, "stages": [{"distill": {"tokens": 100}}, *RECIPE["stages"]]}, tmp_path)
    assert main(["compress", "stories260k", str(tmp_path / "out"), "--recipe", recipe, "--dry-run", "--controls"]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^([a-z0-9-]+) +[\d.]+(?:e-\d+)? (?:s|min)$", shown, re.MULTILINE)[-7:] == [*GROUPS, "together"]
    assert not (tmp_path / "out").exists()


def test_experts_that_only_some_tiers_leave_room_for_take_time() -> None:
    found = control_seconds(open_checkpoint("stories260k"), read_recipe(RECIPE), ["experts-of-64", "routers"])
    assert found["experts-of-64"] > 0 and found["routers"] > 0


def test_a_group_takes_longer_the_more_it_trains(tmp_path: Path) -> None:
    def seconds(tokens: int) -> float:
        recipe = read_recipe({**TEXTS, "stages": [{"distill": {"tokens": tokens}}, MOE, INT8]})
        return control_seconds(open_checkpoint("stories260k"), recipe, ["static-distilled"])["static-distilled"]

    assert seconds(2_000_000) > 20 * seconds(1_000)


def test_a_long_stage_is_announced_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    recipe = {**TEXTS, "seed": 7, "stages": [{"prune": {"remove": 0.1}}, INT8]}
    compress("stories260k", tmp_path / "out", recipe, announce=lambda estimate: heard.append(estimate.stage))
    assert heard == ["prune", "quantize"]
    command._announce(Estimate("distill", 150.0, 10, False))
    command._announce(Estimate("prune", 2.0, 10, False))
    assert capsys.readouterr().err == "distill: about 2 min on this machine\n"


def test_the_record_of_a_result_has_the_bytes_after_each_stage(done: Compression) -> None:
    stages = open_checkpoint(done.out).record.stages
    assert stages[-1].measured["weight_bytes"] == done.bytes_after < stages[0].measured["weight_bytes"]


@pytest.mark.parametrize("arguments", ["--controls nope", "--controls static nope"])
def test_controls_that_do_not_exist_are_one_sentence(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "stories260k", "out", *arguments.split()]) == 2
    shown = capsys.readouterr().err
    assert "there are no controls 'nope'" in shown and shown.count("\n") == 1


def test_the_command_in_a_report_makes_every_figure_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, first = str(tmp_path / "out"), tmp_path / "first"
    arguments = ["stories260k", out, "--recipe", written(RECIPE, tmp_path), "--controls", "static", "routers"]
    assert main(["compress", *arguments, "--report", str(first)]) == 0
    before = json.loads((first / "report.json").read_text())
    shutil.rmtree(cache_folder() / "scores")
    shutil.rmtree(first)
    assert main(shlex.split(before["command"])[1:]) == 0
    again = json.loads((first / "report.json").read_text())
    assert figures_of(again) == figures_of(before)
    assert html.escape(before["command"]) in (first / "report.html").read_text()


def figures_of(report: Report) -> Any:
    """A report without what a clock says."""
    if isinstance(report, dict):
        return {key: figures_of(each) for key, each in report.items() if key not in ("speed", "seconds")}
    return [figures_of(each) for each in report] if isinstance(report, list) else report


def test_controls_cut_short_leave_no_report_and_go_on_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = written({**RECIPE, "seed": 11}, tmp_path)
    arguments = ["compress", "stories260k", str(tmp_path / "out"), "--recipe", recipe, "--controls", "static"]
    arguments += ["--report", str(tmp_path / "report")]
    said: list[str] = []

    def interrupt(self: Any, what: str, done: int, total: int) -> None:
        said.append(what)
        if what.startswith("scoring static pruning by chance"):
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "ProgressLine", lambda: nullcontext(partial(interrupt, None)))
    assert main(arguments) == 130 and not (tmp_path / "report").exists()
    monkeypatch.setattr(command, "ProgressLine", lambda: nullcontext(lambda what, *_: said.append(what)))
    said.clear()
    assert (
        main(arguments) == 0
        and "scoring static pruning by magnitude" not in said[: said.index("scoring static pruning by chance")]
    )
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == ["report.html", "report.json", "report.png"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_report_into_a_file_is_refused_before_any_work(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("kept")
    assert main(["compress", "stories260k", str(tmp_path / "out"), "--report", str(tmp_path / place)]) == 2
    shown = capsys.readouterr().err
    assert "file is no directory; name a directory" in shown and shown.count("\n") == 1
    assert [file.read_text() for file in tmp_path.iterdir()] == ["kept"]


def test_a_report_in_the_place_of_the_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["compress", "stories260k", out, "--report", out]) == 2
    assert "is where the model goes" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_the_original_there_is_no_report_and_one_sentence(
    done: Compression, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compress", str(tmp_path / "gone"), str(done.out), "--recipe", written(RECIPE, tmp_path)]
    assert main([*arguments, "--report", str(tmp_path / "report")]) == 2
    shown = capsys.readouterr().err
    assert str(tmp_path / "gone") in shown and shown.count("\n") == 1 and not (tmp_path / "report").exists()
