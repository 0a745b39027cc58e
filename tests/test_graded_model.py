"""Models whose linears grade their inputs: int8 at the full tier, fewer bytes at others, a row the same anywhere."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_json, llama, opt
from safetensors.torch import load_file, save_file
from torch import Tensor

from moesaic.bench.controls.collect import collect
from moesaic.bench.controls.derive import groups_for
from moesaic.compress.moefy.grading import Walk, threshold_for
from moesaic.compress.pipeline import compress
from moesaic.compress.recipe import read_recipe
from moesaic.engine.llm import LLM
from moesaic.evaluate.texts import embedded_text, encode_documents, read_documents
from moesaic.models.checkpoint import EXPERTS_NAME, load, open_checkpoint
from moesaic.models.errors import CheckpointError, RecipeError
from moesaic.models.linear import GradedLinear, dense_weight
from moesaic.models.record import RECORD_NAME
from moesaic.models.tokenizer import Tokenizer

TIERS = {"high": 0.75, "balanced": 0.6, "low": 0.45}
INT8 = {"quantize": {"linears": "int8"}}


def made(model: str | Path, out: Path, moefy: Mapping[str, Any], *others: Mapping[str, Any]) -> Path:
    compress(model, out, {
        "calibration": {"sequences": 16, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"moefy": {"tiers": TIERS, **moefy}}, *(others or (INT8,))],
    })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made("stories260k", tmp_path_factory.mktemp("graded") / "out", {})


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "out"
    compress("stories260k", out, {"evaluation": {"documents": 1, "truncate": 24}, "stages": [INT8]})
    return out


def copied(model: Path, to: Path) -> Path:
    shutil.copytree(model, to, copy_function=shutil.copyfile)
    return to


def some_text(path: Path, windows: int = 8, length: int = 64) -> Tensor:
    """Text that nothing was calibrated on."""
    documents = read_documents([embedded_text()])
    ids = encode_documents(documents, Tokenizer.open(path), None, open_checkpoint(path).spec.vocab_size)[0]
    return torch.tensor(ids[: windows * length]).view(windows, length)


def test_the_full_tier_is_the_int8_model(graded: Path, int8: Path) -> None:
    ids = some_text(graded, 2)
    ours, plain = load(graded)(ids), load(int8)(ids)
    assert (ours - plain).abs().max() <= 2e-4 * plain.abs().max()  # activations have 16 bits here, and 24 there


def test_a_graded_model_holds_its_weights_once(graded: Path, int8: Path) -> None:
    model, plain = load(graded), load(int8)
    linears = [(name, each) for name, each in model.named_modules() if isinstance(each, GradedLinear)]
    assert len(linears) == 7 * len(model.layers) and all(each.weight.numel() == 0 for _, each in linears)
    for name, each in linears:
        assert torch.equal(dense_weight(each), dense_weight(plain.get_submodule(name)))  # type: ignore[arg-type]
        assert torch.equal(each.int8_rows(slice(3, 7)), each.int8_rows()[3:7])


def test_tiers_fall_in_bytes_and_each_reads_its_share_of_other_text(graded: Path) -> None:
    checkpoint, ids = open_checkpoint(graded), some_text(graded)
    model, found = load(graded), []
    for point, tier in enumerate(checkpoint.record.tiers, 1):
        account = model.compute_of([point] * len(ids))
        model(ids, compute=account)
        found.append(sum(share for share, _ in account.spent.shares(ids.shape[1])) / len(ids))
        assert found[-1] == pytest.approx(tier.share, rel=0.03)
    assert found == sorted(found, reverse=True)


def test_any_share_between_tiers_reads_about_itself(graded: Path) -> None:
    dial, ids, model = open_checkpoint(graded).dial, some_text(graded), load(graded)
    for share in (0.95, 0.85, 0.7, 0.55, 0.5):
        account = model.compute_of([dial.operating_point(None, share)] * len(ids))
        model(ids, compute=account)
        assert sum(read for read, _ in account.spent.shares(64)) / len(ids) == pytest.approx(share, rel=0.04)


def test_a_row_is_the_same_alone_and_among_rows_at_other_points(graded: Path) -> None:
    model, ids = load(graded), some_text(graded, 6, 9)
    points = [0.0, 1.0, 2.0, 0.0, 2.5, 3.0]
    account = model.compute_of(points)
    together = model(ids, compute=account)
    for row, point in enumerate(points):
        own = model.compute_of([point])
        assert torch.equal(model(ids[row : row + 1], compute=own)[0], together[row])
        assert own.spent.shares(9)[0] == account.spent.shares(9)[row]


def test_an_answer_says_what_it_read(graded: Path) -> None:
    llm = LLM(graded)
    full, low = (llm.generate(["Once upon"], tier=tier, max_new_tokens=12)[0].usage for tier in ("full", "low"))
    assert llm.description.num_parameters > 260_000
    assert (full.bytes_share, full.neurons_share) == (1.0, 1.0) and low.tier_used == "low"
    assert low.bytes_share == pytest.approx(TIERS["low"], abs=0.08) and 0 < (low.neurons_share or 0) < 1
    assert low.weight_bytes_per_token is not None and full.weight_bytes_per_token is not None
    assert low.weight_bytes_per_token < 0.7 * full.weight_bytes_per_token


def test_what_the_first_token_read_is_told_however_much_of_its_prompt_was_known(graded: Path) -> None:
    asked: Any = {"tier": "low", "prefill_tier": "low", "max_new_tokens": 1, "temperature": 0}
    prompt, llm = "Once upon a time there was a big dog and a cat who had a red ball and a blue hat", LLM(graded)
    first, again = (llm.generate([prompt], **asked)[0].usage for _ in range(2))
    assert first.cached_prompt_tokens == 0 < again.cached_prompt_tokens
    assert (first.bytes_share, first.neurons_share) == (again.bytes_share, again.neurons_share)


def test_what_is_kept_by_name_stays_whole(tmp_path: Path) -> None:
    out = made("stories260k", tmp_path / "out", {"keep": ["*.ffn.down", "layers.0.attention.query"]})
    model, checkpoint = load(out), open_checkpoint(out)
    graded = [name for name, each in model.named_modules() if isinstance(each, GradedLinear)]
    assert len(graded) == 6 * len(model.layers) - 1 and not any(name.endswith("ffn.down") for name in graded)
    assert all(tier.calibrated["neurons_share"] == 1.0 for tier in checkpoint.record.tiers)
    model(some_text(out, 1), compute=model.compute_of([2]))


@pytest.mark.parametrize("family", [llama, opt])
def test_any_family_is_graded_when_asked(tmp_path: Path, family: Any) -> None:
    family(tmp_path / "model")
    out = made(tmp_path / "model", tmp_path / "out", {"grain": "inputs", "tiers": {"low": 0.6}})
    model = load(out, tier="low")
    assert model(torch.randint(3, 90, (2, 12))).isfinite().all()


def test_a_plain_relu_model_computes_neurons_unless_it_is_asked_otherwise(tmp_path: Path) -> None:
    opt(tmp_path / "model")
    out = made(tmp_path / "model", tmp_path / "out", {"tiers": {"low": 0.6}})
    assert open_checkpoint(out).spec.layers[0].ffn.experts.size == 1


def test_tokens_that_are_all_zero_or_not_finite_harm_nobody(graded: Path) -> None:
    linear = next(each for each in Walk(load(graded)).linears if each.counts_neurons)
    model, x = load(graded), torch.randn(3, 1, linear.num_inputs)
    x[0], x[1, 0, 2] = 0.0, float("nan")
    y = linear(x, model.compute_of([3, 3, 3]))
    assert (y[0] == 0).all() and y[1].isnan().all() and y[2].isfinite().all()
    assert torch.equal(linear(x[2:], model.compute_of([3]))[0], y[2])


def test_a_share_that_nothing_meets_takes_the_least_that_is_read(graded: Path) -> None:
    walk = Walk(load(graded))
    seen = walk.scores(some_text(graded, 1), 0, lambda done, of: None)
    least = sum(each.linear.prices.fixed for each in seen)
    assert sum(each.bytes_at(threshold_for(seen, 0.0)) for each in seen) == pytest.approx(least)


@pytest.mark.parametrize(
    ("moefy", "others", "message"),
    [
        ({"grain": "inputs", "bits": 4}, (), "grain is 'inputs', and bits is a setting of experts; leave one"),
        ({"grain": "neurons", "keep": ["*.down"]}, (), "keep is for grain: inputs"),
        ({"grain": "neurons", "expert_size": 8}, (), "grain is 'neurons', and expert_size is 8; say grain: tiles"),
        ({"grain": "tiles", "expert_size": 1}, (), "grain is 'tiles', and expert_size is 1; say grain: neurons"),
        ({"grain": "channels"}, (), "grain"),
        ({"keep": ["*.mlp.*"]}, (), r"keep names '\*.mlp.\*', and no linear has such a path; one is layers.0.att"),
        ({"keep": ["*"]}, (), "keep leaves no linear to grade; name fewer"),
        ({"tiers": {"low": 0.01}}, (), "tier 'low' may read 0.01 .* takes 0.... of them; raise the tier"),
        ({}, ({"quantize": {"linears": "int8", "activations": "dynamic"}},), "query is int8_dynamic"),
        ({"grain": "inputs"}, ({"prune": {"remove": 0.1}},), "is dense, and bits are graded of int8 weights"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_any_work(
    tmp_path: Path, moefy: Any, others: Any, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        made("stories260k", tmp_path / "out", moefy, *others)
    assert not (tmp_path / "out").exists()


def test_a_graded_checkpoint_without_its_worth_is_refused(graded: Path, tmp_path: Path) -> None:
    copy = copied(graded, tmp_path / "copy")
    (copy / EXPERTS_NAME).unlink()
    with pytest.raises(CheckpointError, match="worth|thresholds"):
        open_checkpoint(copy)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("thresholds", [0.1, 0.2, 0.3, 0.4], "it must be 0 for the full tier and no less for others"),
        ("thresholds", [0.0, 0.1, -0.2, 0.3], "it must be 0 for the full tier and no less for others"),
        ("layers.1.ffn.up.worth", [0.1, 0.3, 0.2], "it must fall and be no less than 0"),
        ("layers.1.ffn.up.worth", [0.1, 0.0, -0.2], "it must fall and be no less than 0"),
    ],
)
def test_grades_that_no_calibration_gives_are_refused(
    graded: Path, tmp_path: Path, name: str, values: list[float], message: str
) -> None:
    copy = copied(graded, tmp_path / "copy")
    save_file({**load_file(copy / EXPERTS_NAME), name: torch.tensor(values)}, copy / EXPERTS_NAME)
    edit_json(copy / RECORD_NAME, files={})
    with pytest.raises(CheckpointError, match=f"{name} is .*{message}"):
        load(copy)


def test_a_model_with_tiers_is_not_graded_again(graded: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="start from the model before it was MoEfied"):
        made(graded, tmp_path / "out", {})


def test_controls_that_leave_out_neurons_say_nothing_of_bits(graded: Path, tmp_path: Path) -> None:
    done = compress("stories260k", graded, {
        "calibration": {"sequences": 16, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"moefy": {"tiers": TIERS}}, INT8],
    })  # fmt: skip
    with pytest.raises(
        RecipeError, match="static leave out neurons, .* choose alone, or compare by .moesaic retention"
    ):
        collect("stories260k", done, ["static"])
    report = collect("stories260k", done, ["alone"])
    shares = [tier["bytes_share"] for tier in report["tiers"]]
    assert shares == sorted(shares, reverse=True) and shares[-1] == pytest.approx(TIERS["low"], rel=0.05)


def test_a_recipe_of_graded_inputs_has_no_controls_of_neurons() -> None:
    recipe = read_recipe("graded")
    assert groups_for(recipe) == ("alone",)
    with pytest.raises(
        RecipeError, match="static.: this recipe has no tiers of neurons; a stage moefy with grain: neu"
    ):
        groups_for(recipe, ["static"])
