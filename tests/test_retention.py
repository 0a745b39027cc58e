"""The curves: every method is dense when it may read all, spends what it is given, and is measured once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import opt

from moesaic.bench.retention import run as curves
from moesaic.bench.retention.attention import WithAttention
from moesaic.bench.retention.experts import ROUTERS, SELECTIONS, SPLITS, Experts
from moesaic.bench.retention.grid import DRAWN, default_method, methods_for, rivals
from moesaic.bench.retention.inputs import Inputs
from moesaic.bench.retention.lab import Lab
from moesaic.bench.retention.method import Method, NotHere
from moesaic.bench.retention.page import notes, rows, write_curves
from moesaic.bench.retention.picture import COLOURS
from moesaic.bench.retention.plain import as_json
from moesaic.bench.retention.planes import LayeredPlanes, Planes
from moesaic.bench.retention.run import CurvePlan, draw_curves
from moesaic.bench.retention.shared import CMoE, SharedExperts
from moesaic.bench.retention.static import PRUNINGS, FewerBits, Pruned
from moesaic.bench.retention.steps import StepPlanes
from moesaic.compress.pipeline import compress
from moesaic.evaluate.texts import embedded_text
from moesaic.models.checkpoint import open_checkpoint
from moesaic.models.errors import RecipeError, TextError
from moesaic.models.spec import FFNSpec

DEFAULT = "high 4 bits, then 6"


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def lab() -> Lab:
    ids = torch.randint(3, 500, (4, 48), generator=torch.Generator().manual_seed(0))
    return Lab(open_checkpoint("stories260k"), ids[:2], ids[2:], 0, silent)


def of_first_layer(lab: Lab, method: Method, share: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(what the method gives, what the dense layer gives, the mean share of bytes)"""
    method.learn(lab.material, silent)
    x = lab.material.given[0]
    used = method.form(0, x, share)(x)
    return used.y, lab.material.layers[0].dense(x), float(used.bytes.mean())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("size", [1, 16, 50, 64, 256])
def test_all_experts_on_are_the_dense_layer(lab: Lab, split: str, size: int) -> None:
    y, dense, read = of_first_layer(lab, Experts(size, split), 1.0)
    assert (y - dense).abs().max() <= 1e-5 * dense.abs().max() and read == 1.0


def test_planes_that_may_read_all_are_the_dense_layer_but_for_int8_inputs(lab: Lab) -> None:
    y, dense, _ = of_first_layer(lab, Planes(4, 8), 2.0)
    assert (y - dense).abs().max() <= 0.02 * dense.abs().max()


def test_planes_of_a_layer_with_biases_are_the_dense_layer_too(tmp_path: Path) -> None:
    opt(tmp_path)
    ids = torch.randint(3, 200, (3, 32), generator=torch.Generator().manual_seed(0))
    biased = Lab(open_checkpoint(tmp_path), ids[:2], ids[2:], 0, silent)
    y, dense, _ = of_first_layer(biased, Planes(2, 8, compensate=False), 2.0)
    assert (y - dense).norm() <= 0.02 * dense.norm()


@pytest.mark.parametrize("method", [Planes(4), Planes(4, allocation="uniform"), Experts(1), Inputs(), Inputs(True)])
def test_what_is_read_is_what_was_given(lab: Lab, method: Method) -> None:
    method.learn(lab.material, silent)
    spent = [float(method.form(i, x, 0.7)(x).bytes.mean()) for i, x in enumerate(lab.material.given)]
    assert sum(spent) / len(spent) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("router", [each for each in ROUTERS if each != "representative"])
def test_every_router_chooses_some(lab: Lab, router: str) -> None:
    method = Experts(16, router=router)
    method.learn(lab.material, silent)
    try:
        used = method.form(0, lab.material.given[0], 0.9)(lab.material.given[0])
    except NotHere as error:
        assert "the router alone reads" in str(error)
    else:
        assert 0 < float(used.neurons.mean()) <= 1 and bool(used.y.isfinite().all())


@pytest.mark.parametrize("size", [64, 32])
def test_nested_experts_are_experts_of_every_size(lab: Lab, size: int) -> None:
    y, dense, read = of_first_layer(lab, Experts(size, "nested"), 1.0)
    assert (y - dense).abs().max() <= 1e-5 * dense.abs().max() and read == 1.0


def test_searching_what_is_always_on_never_costs_more_than_it_saves(lab: Lab) -> None:
    without, dense, _ = of_first_layer(lab, Experts(8, router="random"), 0.6)
    found, _, read = of_first_layer(lab, SharedExperts(8, router="random"), 0.6)
    assert (found - dense).norm() < 0.9 * (without - dense).norm() and read == pytest.approx(0.6, abs=0.05)


def test_cmoe_shares_half_of_what_it_computes(lab: Lab) -> None:
    method = CMoE(4)
    method.learn(lab.material, silent)
    x = lab.material.given[0]
    used = method.form(0, x, 0.7)(x)
    assert float(used.bytes.mean()) == pytest.approx(0.7, abs=0.05) and float(used.neurons.std()) < 1e-6
    with pytest.raises(NotHere):
        method.form(0, x, 0.05)


@pytest.mark.parametrize("rule", SELECTIONS)
def test_every_rule_keeps_about_its_share(lab: Lab, rule: str) -> None:
    _, _, read = of_first_layer(lab, Experts(4, selection=rule), 0.5)
    assert read == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("method", rivals(gated=True), ids=lambda method: method.name)
def test_every_rival_reads_what_it_was_given(lab: Lab, method: Method) -> None:
    share = getattr(method, "share", 0.7)
    method.learn(lab.material, silent)
    used = [method.form(i, x, share)(x) for i, x in enumerate(lab.material.given)]
    assert all(bool(each.y.isfinite().all()) and each.bytes.shape == each.neurons.shape for each in used)
    assert sum(float(each.bytes.mean()) for each in used) / len(used) == pytest.approx(share, abs=0.02)


def test_a_perfect_router_beats_chance(lab: Lab) -> None:
    perfect, dense, _ = of_first_layer(lab, Experts(16), 0.6)
    chance, _, _ = of_first_layer(lab, Experts(16, router="random"), 0.6)
    assert (perfect - dense).norm() < 0.7 * (chance - dense).norm()


@pytest.mark.parametrize("score", PRUNINGS)
def test_pruning_keeps_the_share_of_the_neurons_of_all_layers(lab: Lab, score: str) -> None:
    method = Pruned(score)
    method.learn(lab.material, silent)
    kept = [float(method.form(i, x, 0.5)(x).neurons[0]) for i, x in enumerate(lab.material.given)]
    assert sum(kept) / len(kept) == pytest.approx(0.5, abs=0.01)


def test_fewer_bits_have_one_share_only(lab: Lab) -> None:
    method = FewerBits(4, 32)
    y, dense, read = of_first_layer(lab, method, 0.55)
    assert read == pytest.approx(0.5625) and (y - dense).norm() < 0.2 * dense.norm()
    with pytest.raises(NotHere, match="these weights are 0.56 of the bytes"):
        method.form(0, lab.material.given[0], 0.4)


def test_a_point_is_scored_like_the_model_itself(lab: Lab) -> None:
    dense, everything = lab.dense(), lab.point(learned(lab, Experts(1)), 1.0)
    assert everything.correct == dense.correct and everything.tokens == [47, 47]
    assert everything.nats == pytest.approx(dense.nats, rel=1e-5)


def learned(lab: Lab, method: Method) -> Method:
    method.learn(lab.material, silent)
    return method


# --- a run ------------------------------------------------------------------------------------------------------------


def plan(out: Path) -> CurvePlan:
    only = (DEFAULT, "neurons, perfect", "FLAP", "int4 to nearest, groups of 128")
    return CurvePlan("stories260k", out, (str(embedded_text()),), 2, 32, 2, shares=(0.68, 0.3), only=only)


def test_a_run_that_ended_is_taken_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_curves(plan(tmp_path), silent)
    (file,) = tmp_path.glob("points-*.jsonl")
    file.write_text(file.read_text() + '{"method": "cut o')  # as a kill leaves it
    monkeypatch.setattr(curves, "Lab", lambda *_: pytest.fail("measured again"))
    again = draw_curves(plan(tmp_path), silent)
    assert as_json(again)["points"] == as_json(first)["points"]


def test_what_a_method_learned_is_given_up_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, planes = Experts(64), Planes(4)
    monkeypatch.setattr(curves, "methods_for", lambda *_: [tiles, planes])
    found = draw_curves(replace(plan(tmp_path), shares=(0.6,), only=()), silent)
    assert not tiles._layers and not planes.weights and all(point.correct for point in found.points)


def test_seeds_learn_from_other_text_and_score_the_same(tmp_path: Path) -> None:
    only = replace(plan(tmp_path), shares=(0.68,), only=(DEFAULT, "FLAP"), seeds=2)
    found = draw_curves(only, silent)
    (again,) = found.again[DEFAULT, 0.68]
    assert again.nats != found.points[0].nats and again.tokens == found.points[0].tokens
    head, body = rows(as_json(found), 0.68)
    assert "top-1 / dense over 2 seeds" in head and all(len(row) == len(head) and "+-" in row[5] for row in body)
    by_seed = as_json(found)["points"][0]["perplexity_relative"]["by_seed"]
    assert len(by_seed) == 2 and by_seed[0] == as_json(found)["points"][0]["perplexity_relative"]["value"]


def test_methods_stand_beside_the_default(tmp_path: Path) -> None:
    head, body = rows(as_json(draw_curves(plan(tmp_path), silent)), 0.68)
    assert "that of the default" in head[-1] and [row[-1] for row in body if row[0] == DEFAULT] == ["itself"]


def test_the_picture_shows_what_is_measured() -> None:
    smooth = open_checkpoint("stories260k").spec
    plain = replace(smooth, layers=(replace(smooth.layers[0], ffn=FFNSpec(1024, "relu", gated=False)),))
    made = {method.name: method.group for spec in (plain, smooth) for method in methods_for(spec, full=True)}
    assert set(DRAWN) <= set(made) and {made[name] for name in DRAWN} <= set(COLOURS)
    assert {default_method(spec, share).name for spec in (plain, smooth) for share in (0.2, 0.3, 0.7)} <= set(DRAWN)


def test_bits_chosen_layer_by_layer_spend_what_they_are_given(lab: Lab) -> None:
    method = LayeredPlanes()
    method.learn(lab.material, silent)
    spent = [float(method.form(i, x, 0.6)(x).bytes.mean()) for i, x in enumerate(lab.material.given)]
    assert sum(spent) / len(spent) == pytest.approx(0.6, abs=0.02)
    with pytest.raises(NotHere, match="one high bit alone"):
        method.form(0, lab.material.given[0], 0.05)


@pytest.mark.parametrize("together", [False, True])
def test_the_tokens_of_a_step_read_what_they_are_given_together(lab: Lab, together: bool) -> None:
    method = StepPlanes(Planes(4), 4, together)
    method.learn(lab.material, silent)
    x = lab.material.given[0]
    used = method.form(0, x, 0.8)(x)
    assert float(used.bytes.mean()) == pytest.approx(0.8, abs=0.02)
    dense = lab.material.layers[0].dense(x)
    assert 0 < (used.y - dense).norm() < 0.4 * dense.norm()


def test_alone_in_a_step_a_token_computes_the_same_however_it_chooses(lab: Lab) -> None:
    own, joint = (of_first_layer(lab, StepPlanes(Planes(4), 1, how), 0.6)[0] for how in (False, True))
    assert torch.allclose(own, joint, atol=1e-5)


def test_attention_that_keeps_all_its_inputs_leaves_the_ffn_what_is_left(lab: Lab) -> None:
    method = learned(lab, WithAttention(Planes(4), 1.0))
    whole, rest = lab.material.layers[0].whole_bytes, lab.material.attention_bytes[0]
    share = (0.6 * whole + rest) / (whole + rest)
    with_all, without = lab.point(method, share), lab.point(learned(lab, Planes(4)), 0.6)
    assert with_all.nats == without.nats and with_all.bytes_share == pytest.approx(share, abs=0.02)


def test_attention_reads_the_share_of_its_inputs_that_it_is_given(lab: Lab) -> None:
    before = lab.dense()
    fewer = lab.point(learned(lab, WithAttention(Planes(4), 0.6)), 0.7)
    assert fewer.bytes_share == pytest.approx(0.7, abs=0.03)
    assert lab.dense().nats == before.nats  # nothing stays cut


def test_the_point_after_one_that_a_kill_cut_off_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_curves(plan(tmp_path), silent)
    (file,) = tmp_path.glob("points-*.jsonl")
    file.write_text(file.read_text()[:-20])  # the kill came while the last point was written
    draw_curves(plan(tmp_path), silent)
    monkeypatch.setattr(curves, "Lab", lambda *_: pytest.fail("measured again"))
    assert as_json(draw_curves(plan(tmp_path), silent))["points"] == as_json(first)["points"]


def test_curves_without_a_point_are_written_too(tmp_path: Path) -> None:
    only = replace(plan(tmp_path), shares=(0.01,), only=(DEFAULT,))
    page = write_curves(as_json(draw_curves(only, silent)), tmp_path)[2].read_text()
    assert "alone are more than 0.01 of the bytes" in page


def test_the_files_hold_every_point_and_say_what_is_missing(tmp_path: Path) -> None:
    found = as_json(draw_curves(plan(tmp_path), silent))
    files = write_curves(found, tmp_path)
    assert [file.name for file in files] == ["curves.json", "curves.png", "curves.html"]
    points = json.loads(files[0].read_text())["points"]
    assert {point["method"] for point in points} >= {DEFAULT, "neurons, perfect", "FLAP pruning"}
    head, body = rows(found, 0.3)
    assert any(row[0] == DEFAULT and "alone are more than 0.30" in row[-1] for row in body)
    assert all(len(row) == len(head) for row in body) and "paired bootstrap" in " ".join(notes(found))


def test_the_page_is_made_anew_from_the_json_alone(tmp_path: Path) -> None:
    write_curves(as_json(draw_curves(plan(tmp_path / "run"), silent)), tmp_path / "first")
    write_curves(json.loads((tmp_path / "first" / "curves.json").read_text()), tmp_path / "again")
    for name in ("curves.json", "curves.png", "curves.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": 0}, "windows is 0, it must be at least 1"),
        ({"windows": -1}, "windows is -1, it must be at least 1"),
        ({"windows": 1}, "windows is 1, and there is one text; intervals need 2"),
        ({"length": 1}, "length is 1, it must be at least 2"),
        ({"length": 513}, "length is 513, this model's context is 512; lower it"),
        ({"calibration": 0}, "calibration is 0, it must be at least 1"),
        ({"seeds": 0}, "seeds is 0, it must be at least 1"),
        ({"shares": (0.5, 0.0)}, "share is 0.0; .* above 0 and goes up to 1"),
        ({"shares": (1.5,)}, "share is 1.5; "),
        ({"shares": (float("nan"),)}, "share is nan; "),
    ],
)
def test_plans_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        draw_curves(replace(plan(tmp_path), **changes), silent)
    assert not list(tmp_path.iterdir())


def test_curves_of_int8_weights_are_refused(tmp_path: Path) -> None:
    compress(
        "stories260k",
        tmp_path / "int8",
        {
            "evaluation": {"documents": 1, "truncate": 24},
            "stages": [{"quantize": {"linears": "int8"}}],
        },
    )
    with pytest.raises(RecipeError, match="int8 has int8 weights, the curves start from floating point"):
        draw_curves(replace(plan(tmp_path / "out"), model=str(tmp_path / "int8")), silent)


def test_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="lower windows or length"):
        draw_curves(CurvePlan("stories260k", tmp_path, (str(embedded_text()),), windows=10**6), silent)
    with pytest.raises(TextError, match="no text to draw the curves on"):
        draw_curves(CurvePlan("stories260k", tmp_path, ()), silent)
    assert not list(tmp_path.iterdir())
