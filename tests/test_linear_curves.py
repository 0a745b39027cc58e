"""The curves over all linears: everything read is int8, bytes are those asked for, prices are where they should be."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import opt

from moesaic.bench.retention.linears import run as linear_run
from moesaic.bench.retention.linears.gptq import gptq, group_scales, nearest
from moesaic.bench.retention.linears.graded import Graded, column_errors, worth
from moesaic.bench.retention.linears.grid import DRAWN, ROUTERS, graded, methods_for, of_ffns, rivals
from moesaic.bench.retention.linears.lab import Lab, Method
from moesaic.bench.retention.linears.matrices import AXES, FFN, LINEARS, Matrix
from moesaic.bench.retention.linears.neurons import BothSides, FFNAlone
from moesaic.bench.retention.linears.off_grid import BLOCK, off_grid
from moesaic.bench.retention.linears.page import notes, rows, write_curves
from moesaic.bench.retention.linears.plain import as_json
from moesaic.bench.retention.linears.rivals import FewerBits
from moesaic.bench.retention.linears.run import draw_linear_curves
from moesaic.bench.retention.linears.tiles import GradedTiles, Tiles
from moesaic.bench.retention.method import Method as FFNMethod
from moesaic.bench.retention.method import NotHere
from moesaic.bench.retention.picture import COLOURS
from moesaic.bench.retention.planes import Planes
from moesaic.bench.retention.run import CurvePlan
from moesaic.compress.pipeline import compress
from moesaic.evaluate.texts import embedded_text
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import RecipeError


def silent(what: str, done: int, total: int) -> None:
    pass


IDS = torch.randint(3, 500, (5, 48), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lab() -> Lab:
    found = Lab(open_checkpoint("stories260k"), IDS[:3], IDS[3:], 0, silent)
    found.dense()
    return found


def learned(lab: Lab, method: Method) -> Method:
    method.learn(lab.matrices, silent)
    return method


def test_the_lab_in_int8_scores_what_the_int8_model_does(lab: Lab, tmp_path: Path) -> None:
    recipe = {"evaluation": {"documents": 1, "truncate": 24}, "stages": [{"quantize": {"linears": "int8"}}]}
    compress("stories260k", tmp_path / "int8", recipe)
    model, ids = load(tmp_path / "int8"), IDS[3:]
    logs = torch.log_softmax(model(ids)[:, :-1], -1)
    nats = -logs.gather(-1, ids[:, 1:, None]).sum((1, 2))
    assert lab.dense().nats == pytest.approx(nats.tolist(), rel=2e-3)


@pytest.mark.parametrize(
    "method", [Graded(), Graded((0, 3, 5, 8)), BothSides(Graded(), 1.0), GradedTiles(Graded())], ids=lambda m: m.name
)
def test_inputs_that_may_read_all_are_int8_exactly(lab: Lab, method: Method) -> None:
    dense, everything = lab.dense(), lab.point(learned(lab, method), "linears", 1.0)
    assert everything.nats == pytest.approx(dense.nats, abs=1e-3) and max(everything.kl) < 1e-4


@pytest.mark.parametrize("method", [each for each in graded() if not each.constant], ids=lambda method: method.name)
def test_graded_inputs_read_what_they_are_given(lab: Lab, method: Graded) -> None:
    point = lab.point(learned(lab, method), "linears", 0.6)
    assert point.bytes_share == pytest.approx(0.6, abs=0.1 if method.fitted or method.stream else 0.04)
    assert all(torch.tensor(point.nats).isfinite()) and point.parts["head"] == 1


def test_an_axis_leaves_the_other_matrices_whole(lab: Lab) -> None:
    ffn, head = (lab.point(learned(lab, Graded()), axis, 0.6) for axis in ("ffn", "head"))
    assert ffn.parts["attention in"] == ffn.parts["attention out"] == 1 and ffn.parts["ffn in"] < 1
    assert all(head.parts[kind] == 1 for kind in LINEARS) and head.parts["head"] == pytest.approx(0.6, abs=0.04)


def test_more_bytes_are_nearer_to_int8(lab: Lab) -> None:
    method = learned(lab, Graded())
    kl = [sum(lab.point(method, "linears", share).kl) for share in (0.45, 0.6, 0.8)]
    assert kl[0] > 2 * kl[1] > 4 * kl[2]


def test_the_fisher_information_is_worth_its_backward_pass(lab: Lab) -> None:
    known, relative = (
        lab.point(learned(lab, each), "linears", 0.55) for each in (Graded(), Graded(sensitivity="none"))
    )
    assert sum(known.kl) < sum(relative.kl)


@pytest.mark.parametrize("method", rivals(), ids=lambda method: method.name)
def test_every_rival_over_linears_reads_what_it_says(lab: Lab, method: Method) -> None:
    bits = method.bits + (16 / method.columns if method.columns else 0) if isinstance(method, FewerBits) else 0
    share = bits / 8 or 0.55
    point = lab.point(learned(lab, method), "linears", share)
    assert point.bytes_share == pytest.approx(share, abs=0.05) and sum(point.kl) > 0


def test_fewer_bits_over_linears_have_one_share_only(lab: Lab) -> None:
    with pytest.raises(NotHere, match="these weights are 0.56 of the bytes"):
        FewerBits(4).aim("linears", 0.5)


def test_planes_leave_attention_whole_and_count_all_linears(lab: Lab) -> None:
    method = FFNAlone(Planes(3), open_checkpoint("stories260k"), IDS[:3], 0)
    point = lab.point(learned(lab, method), "linears", 0.7)
    assert point.parts["attention in"] == 1 and point.bytes_share == pytest.approx(0.7, abs=0.03)
    with pytest.raises(NotHere):
        lab.point(method, "linears", 0.2)


@pytest.mark.parametrize("alone", of_ffns(), ids=lambda method: method.name)
def test_rivals_that_know_ffns_alone_pay_for_attention(lab: Lab, alone: FFNMethod) -> None:
    method = FFNAlone(alone, open_checkpoint("stories260k"), IDS[:3], 0)
    point = lab.point(learned(lab, method), "linears", 0.7)
    assert point.parts["attention in"] == 1 and point.bytes_share == pytest.approx(0.7, abs=0.03)
    assert (method.name, method.group) == (alone.name, alone.group)


def test_both_sides_read_less_of_gate_and_up_for_the_same_price(lab: Lab) -> None:
    point = lab.point(learned(lab, BothSides(Graded((0, 2, 4, 6, 8)))), "linears", 0.55)
    assert point.bytes_share == pytest.approx(0.55, abs=0.05)


def test_tiles_read_what_they_are_given_and_a_router_is_paid_for(lab: Lab) -> None:
    methods = [learned(lab, GradedTiles(Graded(), 16, router)) for router in ROUTERS]
    free, routed = (lab.point(method, "ffn", 0.5) for method in methods)
    assert [free.bytes_share, routed.bytes_share] == pytest.approx([0.5, 0.5], abs=0.04)
    assert free.parts["attention in"] == 1 and sum(free.kl) < sum(routed.kl)


def test_tiles_that_are_foreseen_to_give_nothing_are_skipped(lab: Lab) -> None:
    method = GradedTiles(Graded(), 16)
    lab.point(learned(lab, method), "ffn", 0.5)
    method.ratio = float("inf")
    wide, down = method.pair(0)
    values, read = method.neurons(method.dense[0], wide, down)(wide.inputs.float())
    assert not values.any() and not read.any()


def test_a_router_foresees_the_norms_of_tiles_in_their_unit(lab: Lab) -> None:
    wide, down = (next(m for m in lab.matrices if m.kind == kind) for kind in FFN)
    tiles = Tiles.of(wide, down, 16, "norm regression", 0)
    assert tiles.router is not None and int(tiles.sizes.sum()) == down.num_inputs
    true, foreseen = tiles.norms(down.inputs.float()), tiles.unit * tiles.router.scores(wide.inputs.float())
    assert float((foreseen - true).norm()) < 0.5 * float(true.norm())


# --- the mathematics --------------------------------------------------------------------------------------------------


def matrix(outputs: int = 24, inputs: int = 40) -> Matrix:
    draw = torch.Generator().manual_seed(1)
    linear = torch.nn.Linear(inputs, outputs, bias=False)
    linear.weight = torch.nn.Parameter(torch.randn(outputs, inputs, generator=draw), False)
    made = Matrix.of("ffn in", 0, [linear])  # type: ignore[list-item]
    made.fisher = torch.rand(outputs, generator=draw)
    return made


@pytest.mark.parametrize("bits", range(9))
def test_high_bits_are_the_middle_of_what_they_leave_open(bits: int) -> None:
    made = matrix()
    left = (made.levels - made.high_bits(bits)).float()
    assert float(left.abs().max()) <= ((2 ** (8 - bits) - 1) / 2 if bits else 127)
    assert bits or not made.high_bits(bits).any()


def test_errors_of_columns_are_those_of_the_products() -> None:
    made, x = matrix(), torch.zeros(1, 40)
    x[0, 7] = 2.0
    left = (made.product(x, made.levels) - made.product(x, made.high_bits(4))).square() * made.fisher
    assert float(column_errors(made, (4,), made.fisher)[0, 7] * 4) == pytest.approx(float(left.sum()), rel=1e-4)


def test_what_a_step_is_worth_falls_and_passes_over_levels_above_the_hull() -> None:
    errors = torch.tensor([[16.0, 9.0], [9.0, 8.9], [0.0, 0.0]])  # the second column's middle level saves nothing
    found = worth(errors, (0, 4, 8), outputs=2)
    assert bool((found[0] >= found[1]).all())
    assert found[:, 1].tolist() == pytest.approx([(9 / 2) ** 0.5] * 2)


def test_prices_choose_the_levels_of_least_error_and_bytes() -> None:
    made, levels, price = matrix(), (0, 2, 4, 6, 8), 0.003
    errors = column_errors(made, levels, made.fisher)
    steps, x = worth(errors, levels, made.outputs), torch.linspace(0.01, 3, 40)
    level = (x * steps > price**0.5).sum(0)
    size = torch.tensor(levels).float().unsqueeze(1) / 8 * made.outputs
    assert torch.equal(level, (x.square() * errors + price * size).argmin(0))


def test_gptq_errs_less_than_rounding_to_nearest_on_inputs_that_hang_together() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 8, generator=draw) @ torch.randn(8, 64, generator=draw) + 0.1 * torch.randn(
        400, 64, generator=draw
    )
    w = torch.randn(32, 64, generator=draw)
    plain = nearest(w, group_scales(w, 4, 32, torch.ones(64)).repeat_interleave(32, 1), 4)
    errors = [(x @ (w - found).T).norm() for found in (gptq(w, x.T @ x, 4, 32), gptq(w, x.T @ x, 4, 32, False), plain)]
    assert errors[0] < 0.7 * errors[2] and errors[1] < 0.8 * errors[2]


def test_gptq_takes_inputs_that_are_always_zero() -> None:
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    x[:, 5] = 0
    assert gptq(torch.randn(8, 64), x.T @ x, 4, 32).isfinite().all()


# --- off the grid -----------------------------------------------------------------------------------------------------


def test_noise_takes_linears_off_the_grid_and_leaves_the_rest(tmp_path: Path) -> None:
    off_grid("stories260k", tmp_path / "off", 3)
    before, after = (dict(read_tensors(open_checkpoint(each))) for each in ("stories260k", tmp_path / "off"))
    name = "layers.0.ffn.up.weight"
    block = before[name].float()[:, :BLOCK]
    step = (block.amax(1) - block.amin(1)) / 15
    moved = (after[name].float()[:, :BLOCK] - block).abs() / step.unsqueeze(1)
    assert 0.2 < float(moved.mean()) < 0.3 and float(moved.max()) < 0.6
    assert torch.equal(before["embedding.weight"], after["embedding.weight"].to(before["embedding.weight"].dtype))
    assert json.loads((tmp_path / "off" / "off_grid.json").read_text())["seed"] == 3


def test_noise_on_int8_weights_is_refused(tmp_path: Path) -> None:
    recipe = {"evaluation": {"documents": 1, "truncate": 24}, "stages": [{"quantize": {"linears": "int8"}}]}
    compress("stories260k", tmp_path / "int8", recipe)
    with pytest.raises(RecipeError, match="int8 has int8 weights, noise goes on floating point"):
        off_grid(str(tmp_path / "int8"), tmp_path / "off")
    assert not (tmp_path / "off").exists()


# --- a run ------------------------------------------------------------------------------------------------------------

DEFAULT = Graded().name


def plan(out: Path) -> CurvePlan:
    only = (DEFAULT, "int4 to nearest, groups of 32")
    return CurvePlan("stories260k", out, (str(embedded_text()),), 2, 32, 2, shares=(0.68, 0.55), only=only)


def test_a_run_over_linears_is_taken_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = as_json(draw_linear_curves(plan(tmp_path), "linears", silent))
    monkeypatch.setattr(linear_run, "Lab", lambda *_: pytest.fail("measured again"))
    assert as_json(draw_linear_curves(plan(tmp_path), "linears", silent))["points"] == first["points"]


def test_the_files_over_linears_hold_every_point_and_are_made_anew_from_json(tmp_path: Path) -> None:
    report = as_json(draw_linear_curves(plan(tmp_path / "run"), "linears", silent))
    files = write_curves(report, tmp_path / "a")
    write_curves(json.loads(files[0].read_text()), tmp_path / "b")
    assert all(file.read_bytes() == (tmp_path / "b" / file.name).read_bytes() for file in files)
    head, body = rows(report, 0.68)
    assert all(len(row) == len(head) for row in body) and "paired bootstrap" in " ".join(notes(report))
    assert any(row[-1] == "these weights are 0.56 of the bytes" for row in body)


def test_bytes_of_what_is_not_counted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="bytes of 'router' are not counted; choose from linears, ffn, head"):
        draw_linear_curves(plan(tmp_path), "router", silent)


def test_the_picture_over_linears_shows_what_is_measured(tmp_path: Path) -> None:
    opt(tmp_path)
    found = [open_checkpoint("stories260k"), open_checkpoint(tmp_path)]
    made = {each.name: each.group for one in found for axis in AXES for each in methods_for(axis, one, IDS, 0)}
    assert set(DRAWN) <= set(made) and set(made.values()) <= set(COLOURS)


def test_linears_with_biases_and_one_matrix_before_the_neurons_are_computed_too(tmp_path: Path) -> None:
    opt(tmp_path)
    ids = torch.randint(3, 200, (4, 32), generator=torch.Generator().manual_seed(0))
    biased = Lab(open_checkpoint(tmp_path), ids[:2], ids[2:], 0, silent)
    dense = biased.dense()
    for method in (Graded(), BothSides(Graded((0, 1, 2, 4, 8)), 2.0)):
        assert biased.point(learned(biased, method), "ffn", 1.0).nats == pytest.approx(dense.nats, rel=1e-3)


def test_a_plan_over_linears_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="windows is 0, it must be at least 1"):
        draw_linear_curves(replace(plan(tmp_path), windows=0), "linears", silent)
    assert not list(tmp_path.iterdir())
