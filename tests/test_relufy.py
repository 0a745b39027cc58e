"""A model that becomes ReLU, and one that learns its tier: what they keep, what they say, how a killed run goes on."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import llama, opt
from torch import Tensor

from moesaic.compress.calibration import Calibration, CalibrationSettings
from moesaic.compress.distill.recovery import TierLesson, lesson_at
from moesaic.compress.distill.sparsity import SparsityLesson, hoyer_square, mean_magnitude
from moesaic.compress.distill.student import trainable
from moesaic.compress.distill.tier_ffn import TierFFN, threshold_for_share
from moesaic.compress.distill.tier_settings import TierSettings
from moesaic.compress.distill.training import Trainer
from moesaic.compress.export import export
from moesaic.compress.material import Workshop
from moesaic.compress.moefy.settings import MoefySettings
from moesaic.compress.pipeline import compress
from moesaic.compress.recipe import read_recipe, shipped_recipes
from moesaic.compress.stage_cache import stages_folder
from moesaic.compress.walk import walk
from moesaic.kernels.cache import cache_folder
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import RecipeError
from moesaic.models.spec import FFNSpec
from moesaic.models.transformer import Transformer

SHORT: dict[str, Any] = {"calibration": {"sequences": 6, "length": 32}, "evaluation": {"documents": 1, "truncate": 16}}
RELUFY = {"tokens": 640, "batch": 4, "lr": 1e-3, "save_every": 2}
AT = {"tokens": 640, "batch": 4, "lr": 1e-3, "save_every": 2, "at": {"share": 0.7, "grain": "neurons"}}
AT_INPUTS = {**AT, "at": {"share": 0.6, "grain": "inputs"}}
EXPERTS = {"expert_size": 1, "router": "bit_planes", "tiers": {"low": 0.7}}
PLANES: list[dict[str, Any]] = [{"moefy": EXPERTS}, {"quantize": {"linears": "int8"}}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    llama(tmp_path / "model", num_hidden_layers=2)
    return tmp_path / "model"


def made(source: str | Path, out: Path, *stages: Mapping[str, Any], progress: Any = None) -> Path:
    compress(source, out, {**SHORT, "stages": list(stages)}, progress)
    return out


def notes(folder: Path) -> dict[str, Any]:
    """What the first stage found out."""
    return dict(open_checkpoint(folder).record.stages[0].notes)


def their_logits(folder: Path, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    return logits


# --- the measures --------------------------------------------------------------------------------------------------


def test_the_hoyer_measure_is_the_share_of_neurons_that_are_active_alike() -> None:
    for active in (1, 3, 16):
        neurons = torch.zeros(5, 16)
        neurons[:, :active] = 2.5
        assert hoyer_square(neurons).item() == pytest.approx(active / 16)
    assert hoyer_square(torch.zeros(5, 16)) == 0
    some = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(hoyer_square(some), hoyer_square(some * -7))


@pytest.mark.parametrize("measure", [hoyer_square, mean_magnitude])
def test_a_measure_pushes_weak_neurons_to_zero_and_is_finite_where_all_are_silent(measure: Any) -> None:
    neurons = torch.tensor([[3.0, 2.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(measure(neurons), [neurons])
    assert gradient.isfinite().all() and gradient[0, 2] > 0


@pytest.mark.parametrize("rising", [True, False])
def test_the_pressure_is_on_the_neurons_of_all_layers_and_rises_if_asked(model: Path, rising: bool) -> None:
    checkpoint = open_checkpoint(model)
    student = trainable(checkpoint.spec, read_tensors(checkpoint)).requires_grad_(True)
    lesson = SparsityLesson(student, 2.0, hoyer_square, rising)
    found = []
    for progress in (0.0, 0.5, 1.0):
        student.hidden(torch.arange(8).unsqueeze(0))
        extra = lesson.extra(progress)
        assert extra is not None and extra.requires_grad
        found.append(extra.item())
    assert 0 < found[2] < 2
    assert found == pytest.approx([found[2] * share for share in ((0, 0.5, 1) if rising else (1, 1, 1))])


# --- relufy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "changes"), [(llama, {}), (opt, {"activation_function": "gelu"})])
@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_other_loaders_compute_the_relu_model_that_moesaic_made(
    tmp_path: Path, family: Any, changes: dict[str, Any], shift: float
) -> None:
    family(tmp_path / "model", num_hidden_layers=1, **changes)
    out = made(tmp_path / "model", tmp_path / "out", {"relufy": {**RELUFY, "tokens": 128, "shift": shift}})
    assert all(layer.ffn.activation == "relu" for layer in open_checkpoint(out).spec.layers)
    export(out, tmp_path / "plain", dtype="float32")
    ids = torch.arange(30).unsqueeze(0)
    ours = load(out)(ids)
    for folder in [tmp_path / "plain"] if shift and family is llama else [out, tmp_path / "plain"]:
        theirs = their_logits(folder, ids)
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_gated_model_becomes_sparse_and_learns_what_the_swap_cost(model: Path, tmp_path: Path) -> None:
    found = notes(made(model, tmp_path / "out", {"relufy": {**RELUFY, "tokens": 1920}}))
    assert found["before"]["zeros"] == 0 < 0.3 < found["after"]["zeros"] < 1
    assert found["last_loss"] < found["first_loss"] and found["steps"] == 15


def test_pressure_makes_fewer_neurons_matter(model: Path, tmp_path: Path) -> None:
    plain = notes(made(model, tmp_path / "a", {"relufy": {**RELUFY, "tokens": 1920}}))["after"]
    pressed = {**RELUFY, "tokens": 1920, "sparsity": 20.0, "schedule": "constant"}
    assert notes(made(model, tmp_path / "b", {"relufy": pressed}))["after"]["hoyer"] < 0.95 * plain["hoyer"]
    kept = notes(made(model, tmp_path / "c", {"relufy": {**pressed, "activation": "keep"}}))
    assert kept["after"]["hoyer"] < 0.95 * kept["before"]["hoyer"] and kept["after"]["zeros"] == 0
    assert open_checkpoint(tmp_path / "c").spec.layers[0].ffn.activation == "silu"


def test_a_shift_starts_as_a_bias_in_front_of_the_relu(model: Path, tmp_path: Path) -> None:
    shifted = {**RELUFY, "tokens": 1, "lr": 1e-12, "shift": 0.25}
    tensors = dict(read_tensors(open_checkpoint(made(model, tmp_path / "out", {"relufy": shifted}))))
    assert torch.allclose(tensors["layers.0.ffn.gate.bias"], torch.tensor(-0.25))
    assert tensors["layers.0.ffn.up.bias"].abs().max() < 1e-6 > tensors["layers.0.ffn.down.bias"].abs().max()


def test_a_relu_model_goes_on_to_tiers_of_bit_planes(model: Path, tmp_path: Path) -> None:
    done = compress(model, tmp_path / "out", {**SHORT, "stages": [{"relufy": RELUFY}, *PLANES]})
    assert set(done.tiers) == {"low"} and json.loads((done.out / "config.json").read_text())["hidden_act"] == "relu"
    (low,) = open_checkpoint(done.out).record.tiers
    assert low.measured == done.tiers["low"] and {"perplexity", "top1_agreement"} <= low.measured.keys()
    assert load(done.out, tier="low")(torch.arange(9).unsqueeze(0)).isfinite().all()


# --- a tier that learns --------------------------------------------------------------------------------------------


def test_distilled_at_a_tier_a_model_says_there_more_of_what_the_original_says(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Two cats sat on a wall and saw a dog. The dog saw no cat, for it slept. " * 2)
    base: dict[str, Any] = {
        "calibration": {"text": [str(text)], "length": 32}, "evaluation": {"text": [str(text)], "truncate": 64}
    }  # fmt: skip
    lesson = {"tokens": 30 * 4 * 32, "batch": 4, "lr": 2e-3, "learn": "ffn", "at": {"share": 0.7}}
    without = compress(model, tmp_path / "a", {**base, "stages": PLANES})
    learned = compress(model, tmp_path / "b", {**base, "stages": [{"distill": lesson}, *PLANES]})
    assert notes(tmp_path / "b")["last_loss"] < 0.7 * notes(tmp_path / "b")["first_loss"]
    assert learned.tiers["low"]["kl_nats_per_token"] < 0.9 * without.tiers["low"]["kl_nats_per_token"]


@pytest.fixture
def lesson(model: Path, tmp_path: Path) -> Any:
    """Makes a model's lesson at a tier; gives the windows too."""

    def make(**settings: Any) -> tuple[Transformer, TierLesson, torch.Tensor]:
        source = open_checkpoint(model)
        calibration = Calibration(CalibrationSettings(sequences=6, length=32), source)
        student = trainable(source.spec, read_tensors(source))
        shop = Workshop(source, calibration, 0, tmp_path, lambda *_: None, torch.device("cpu"))
        return student, lesson_at(source, student, TierSettings(grain="neurons", **settings), shop), calibration.windows

    return make


@pytest.mark.parametrize(("mix", "counts"), [(0.25, [2, 6]), (0.01, [1, 7]), (1.0, [8])])
def test_of_each_batch_the_mix_is_computed_at_the_tier(lesson: Any, mix: float, counts: list[int]) -> None:
    student, at_tier, _ = lesson(share=0.7, mix=mix)
    modes, sizes = [], []
    for part in at_tier.parts(torch.arange(8)):
        modes.append([each.at_tier for each in student.modules() if isinstance(each, TierFFN)])
        sizes.append(len(part))
    assert sizes == counts and modes == [[True, True], [False, False]][: len(counts)]


PLAIN, SMOOTH = FFNSpec(1024, "relu", gated=False), FFNSpec(1536, "silu", gated=True)


@pytest.mark.parametrize(
    ("ffn", "hidden", "share", "bits"),
    [
        (PLAIN, 128, 0.3, (2, 5)), (PLAIN, 128, 0.2, (1, 4)), (PLAIN, 128, 1.0, (2, 5)), (PLAIN, 768, 0.23, (2, 5)),
        (SMOOTH, 576, 0.5, (4, 6)), (SMOOTH, 576, 0.4, (3, 6)), (SMOOTH, 64, 0.5, (3, 6)),
        (SMOOTH, 64, 0.4, (2, 5)),
    ],
)  # fmt: skip
def test_as_many_bits_route_as_leave_bytes_to_compute_with(
    ffn: FFNSpec, hidden: int, share: float, bits: tuple[int, int]
) -> None:
    found = TierSettings(share=share).experts(ffn, hidden)
    assert (found.router_bits, found.refined_bits) == bits
    moefy = MoefySettings(expert_size=1, router="bit_planes", tiers={"high": 0.95, "low": min(share, 0.9)})
    assert moefy.experts(ffn, hidden) == found


def test_what_a_recipe_leaves_open_follows_from_what_measured_best() -> None:
    assert MoefySettings().by_planes and MoefySettings().experts(SMOOTH, 576).size == 1
    tiles = MoefySettings(expert_size=64)
    assert tiles.experts(SMOOTH, 576).router == "norm_regression"
    assert tiles.grouping == "coactivation" and tiles.experts(SMOOTH, 576).router_width == 24
    assert MoefySettings(expert_size=4).experts(SMOOTH, 576).router_width == 128
    assert MoefySettings(split_active=1).size == MoefySettings(router_width=8).size == 64
    assert MoefySettings(split="weight_kmeans").size == MoefySettings(router="norm_regression").size == 64
    assert MoefySettings(refined_bits=3).experts(SMOOTH, 576).router_bits == 2


@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_what_a_tier_computes_spends_its_share_of_the_bytes(lesson: Any, allocation: str) -> None:
    student, _, windows = lesson(share=0.65, allocation=allocation)
    costs = [TierSettings(share=0.65).scores(layer.ffn, 48) for layer in student.spec.layers]
    read: list[float] = []

    def count(index: int, ffn: Any, given: Any) -> None:
        scores = ffn.foreseen(torch.cat(list(given)).flatten(0, -2)).scores
        threshold = threshold_for_share(scores.touched_below(ffn.ratio), ffn.touched)
        shares = [float(each.float().mean()) for each in scores.chosen(threshold * torch.tensor([[1.0, ffn.ratio]]))]
        read.append(costs[index].fixed_bytes + shares[0] * costs[index].down_bytes + shares[1] * costs[index].low_bytes)

    walk(student, windows, count)
    assert sum(read) == pytest.approx(0.65 * sum(cost.whole_bytes for cost in costs), rel=0.01)
    assert (read[0] == pytest.approx(read[1], rel=0.01)) == (allocation == "uniform")


def test_a_batch_larger_than_all_that_is_learned_from_takes_no_more(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    stream = Calibration.stream

    def watched(self: Calibration, tokens: int) -> torch.Tensor:
        taken.append(tokens)
        return stream(self, tokens)

    monkeypatch.setattr(Calibration, "stream", watched)
    made(model, tmp_path / "out", {"distill": {"tokens": 100, "batch": 10**6}})
    assert taken == [100] and notes(tmp_path / "out")["steps"] == 1


# --- cut off, and gone on ------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


@pytest.mark.parametrize(
    "stage", [{"relufy": {**RELUFY, "sparsity": 1.0, "shift": 0.01}}, {"distill": AT}, {"distill": AT_INPUTS}]
)
def test_a_run_cut_off_while_it_trains_ends_with_the_bytes_of_one_that_was_not(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: Any
) -> None:
    (name,) = stage
    native = cache_folder() / "native"
    steps: dict[str, list[int]] = {}
    for run in ("unbroken", "broken"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "native").symlink_to(native)
        monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / run))
        seen: list[int] = steps.setdefault(run, [])

        def watch(what: str, done: int, total: int, run: str = run, seen: list[int] = seen) -> None:
            if what.startswith(f"{name}: KL"):
                seen.append(done)
                if run == "broken" and len(seen) == 4:
                    raise Cut

        if run == "broken":
            with pytest.raises(Cut):
                made(model, tmp_path / "out-broken", stage, progress=watch)
            assert list(stages_folder().glob("*.scratch/step-2/state.safetensors"))
        made(model, tmp_path / f"out-{run}", stage, progress=watch)
    assert steps == {"unbroken": [1, 2, 3, 4, 5], "broken": [1, 2, 3, 4, 3, 4, 5]}
    for file in ("model.safetensors", "moesaic.json", "config.json"):
        assert (tmp_path / "out-unbroken" / file).read_bytes() == (tmp_path / "out-broken" / file).read_bytes()


# --- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"relufy": RELUFY}, {"relufy": RELUFY}], "relu already; leave the stage out, or press for more zeros"),
        ([PLANES[0], {"relufy": RELUFY}], "has experts, whose order fits the activation .*; relufy before moefy"),
        ([PLANES[1], {"relufy": RELUFY}], "int8 weights, which cannot learn; relufy before quantize"),
        ([{"relufy": {**RELUFY, "activation": "keep"}}], "a plain distillation; give sparsity, such as 0.5"),
        ([{"relufy": {**RELUFY, "activation": "keep", "sparsity": 1.0, "shift": 0.1}}], "shift moves the threshold"),
        ([{"relufy": {**RELUFY, "activation": "swish"}}], "activation"),
        ([{"relufy": {**RELUFY, "sparsity": -1.0}}], "sparsity"),
        ([{"relufy": {**RELUFY, "shift": math.inf}}], "shift"),
        ([{"relufy": {**RELUFY, "tokens": 0}}], "tokens: is 0; it must be from 1 to 1,000,000,000, such as 262144"),
        ([{"relufy": {**RELUFY, "tokens": 10**12}}], "from 1 to 1,000,000,000"),
        ([{"relufy": {**RELUFY, "lr": -1.0}}], "lr: is -1.0; it must be a rate above 0 and at most 1"),
        ([{"distill": {**RELUFY, "lr": 3.0}}], "lr: is 3.0; it must be a rate above 0 and at most 1"),
        ([{"distill": {**RELUFY, "lr": math.nan}}], "lr: is nan"),
        ([{"distill": {**RELUFY, "temperature": math.inf}}], "temperature: Input should be a finite number"),
        ([{"distill": {**RELUFY, "losses": {"hidden": math.inf}}}], "losses.hidden: Input should be a finite number"),
        (
            [{"distill": {**AT, "at": {"share": 0.1, "bits": 2}}}],
            "at.share is 0.1, .* the 2 high bits that route are 0.... of",
        ),
        ([{"distill": {**AT, "at": {"share": 0.5, "mix": 0.0}}}], "at.mix"),
        ([{"moefy": {"expert_size": 8}}, {"distill": AT}], "experts of one neuron, these have 8; choose expert_size"),
        (
            [{"distill": {**AT, "at": {"part": 0.5}}}],
            "unknown key 'part'; known here: allocation, bits, compensate",
        ),
    ],
)
def test_stages_that_make_no_sense_are_refused_before_any_work(
    model: Path, tmp_path: Path, stages: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        made(model, tmp_path / "out", *stages, progress=lambda *_: pytest.fail("it began"))
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_relu_by_itself_is_refused(tmp_path: Path) -> None:
    opt(tmp_path / "model", num_hidden_layers=1)
    with pytest.raises(RecipeError, match="relu already"):
        made(tmp_path / "model", tmp_path / "out", {"relufy": RELUFY})


def test_a_loss_that_is_no_number_ends_the_run_with_the_way_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0] + [math.nan] * 1000)
    monkeypatch.setattr(Trainer, "_loss", lambda *_: torch.tensor(next(losses), requires_grad=True))
    with pytest.raises(RecipeError, match="relufy: the loss, nan, is no finite number with lr 0.5.*; lower lr"):
        made(model, tmp_path / "out", {"relufy": {**RELUFY, "lr": 0.5}})
    assert not (tmp_path / "out").exists()


# --- where training runs -------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("stage", [{"relufy": {**RELUFY, "sparsity": 1.0}}, {"distill": AT}, {"distill": AT_INPUTS}])
def test_on_a_gpu_training_takes_it(model: Path, tmp_path: Path, stage: Any) -> None:
    found = notes(made(model, tmp_path / "out", stage))
    assert found["device"] == "cuda" and math.isfinite(found["last_loss"])


# --- the recipes that ship -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relufy", "all-four-recovered"])
def test_the_shipped_recipe_runs_on_the_model_that_ships(tmp_path: Path, name: str) -> None:
    values = read_recipe(shipped_recipes()[name]).model_dump()
    short = {"tokens": 256, "batch": 4}
    stages = [
        {stage: {**settings, **(short if "tokens" in settings else {})} for stage, settings in each.items()}
        for each in values["stages"]
    ]
    done = compress("stories260k", tmp_path / "out", {**values, **SHORT, "stages": stages})
    assert set(done.tiers) == set(read_recipe(name).tiers()) and done.bytes_after < 0.3 * done.bytes_before
