"""Linears that learn as graded inputs compute them: the numbers of the product, and gradients for what is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import opt
from graded_cases import tokens_of
from torch import Tensor

from moesaic.compress.calibration import Calibration, CalibrationSettings
from moesaic.compress.distill.recovery import InputLesson, lesson_at
from moesaic.compress.distill.student import trainable
from moesaic.compress.distill.tier_linear import AtTier, TierEmbedding, TierLinear
from moesaic.compress.distill.tier_settings import TierSettings
from moesaic.compress.material import Workshop
from moesaic.compress.pipeline import compress
from moesaic.compress.quantize.int8 import quantize_rows
from moesaic.compress.recipe import read_recipe
from moesaic.kernels.graded.digits import graded_levels
from moesaic.kernels.graded.layout import pack_graded
from moesaic.kernels.graded.worth import worth_of
from moesaic.kernels.graded_linear import GradedWeights, graded_linear_torch
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import RecipeError
from moesaic.models.linear import Embedding, Linear
from moesaic.models.locate import locate
from moesaic.models.transformer import Transformer

TOKENS, INPUTS, OUTPUTS = 12, 40, 24
SHORT: dict[str, Any] = {"calibration": {"sequences": 6, "length": 48}, "evaluation": {"documents": 1, "truncate": 24}}
INT8 = {"quantize": {"linears": "int8"}}
TIERS = {"grain": "inputs", "tiers": {"low": 0.5}}
PLAIN: list[dict[str, Any]] = [{"moefy": TIERS}, INT8]
RELUFY, UNNAMED = {"relufy": {"tokens": 64}}, {"moefy": {"tiers": {"low": 0.5}}}
AT: dict[str, Any] = {"tokens": 384, "batch": 4, "lr": 1e-4, "at": {"share": 0.5}}


def tier_linear(share: float, bias: bool = True) -> tuple[TierLinear, GradedWeights]:
    """A linear at the tier whose threshold this share of inputs stay below, and the weights as the runtime has them."""
    linear, draw = Linear(INPUTS, OUTPUTS, bias), torch.Generator().manual_seed(3)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    weight, scale = quantize_rows(linear.weight.data)
    worth = worth_of(weight, scale, 1.0)
    threshold = float((tokens_of(TOKENS, INPUTS).abs() * worth[0]).quantile(share)) if share else 0.0
    twin = TierLinear.of(linear, worth, threshold)
    twin.at_tier = True
    return twin, GradedWeights(pack_graded(weight), scale, worth, linear.bias)


def levels_of(twin: TierLinear, x: Tensor) -> Tensor:
    assert twin.worth is not None
    return graded_levels(x, twin.worth, torch.full((len(x),), twin.threshold))


# --- one linear ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
@pytest.mark.parametrize("bias", [True, False])
def test_at_a_tier_the_product_is_that_of_the_kernel(share: float, bias: bool) -> None:
    (twin, weights), x = tier_linear(share, bias), tokens_of(TOKENS, INPUTS)
    wanted = graded_linear_torch(x, weights, torch.full((TOKENS,), twin.threshold)).y
    torch.testing.assert_close(twin(x), wanted, rtol=1e-4, atol=1e-3)
    assert share != 0.2 or set(levels_of(twin, x).flatten().tolist()) == {0, 1, 2, 3}


def test_in_full_and_where_it_is_kept_a_linear_is_whole_int8() -> None:
    (twin, weights), x = tier_linear(0.6), tokens_of(TOKENS, INPUTS)
    kept = TierLinear.of(twin, None, twin.threshold)
    twin.at_tier, kept.at_tier = False, True
    wanted = graded_linear_torch(x, weights, torch.zeros(TOKENS)).y
    for each in (twin, kept):
        torch.testing.assert_close(each(x), wanted, rtol=1e-4, atol=1e-3)


def test_gradients_are_those_of_the_int8_product_over_the_inputs_that_are_read() -> None:
    (twin, weights), x = tier_linear(0.6), tokens_of(TOKENS, INPUTS).requires_grad_()
    read = levels_of(twin, x) > 0
    int8 = weights.packed.unpacked(slice(None)).float() * weights.scale.unsqueeze(1)
    there = torch.randn(TOKENS, OUTPUTS, generator=torch.Generator().manual_seed(5))
    found = torch.autograd.grad(twin(x), [x, *twin.parameters()], there)
    wanted = (there @ int8) * read, there.T @ (x * read), there.sum(0)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_under_autocast_the_product_is_as_near_as_bf16_goes() -> None:
    twin, x = tier_linear(0.2)[0], tokens_of(TOKENS, INPUTS)
    wanted = twin(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = twin(x)
    assert found.dtype == torch.bfloat16 and (found - wanted).norm() < 0.02 * wanted.norm()


def test_a_table_is_looked_up_as_its_int8_rows() -> None:
    table = Embedding(7, INPUTS)
    table.weight.data = torch.randn(7, INPUTS, generator=torch.Generator().manual_seed(1))
    whole, scale = quantize_rows(table.weight.data)
    found = TierEmbedding.of(table, None, 0.0)(torch.tensor([[3, 0], [6, 3]]))
    torch.testing.assert_close(found, (whole * scale.unsqueeze(1))[torch.tensor([[3, 0], [6, 3]])])


def test_weights_that_a_fused_step_moved_are_rounded_anew() -> None:
    twin, x = tier_linear(0.2, bias=False)[0], tokens_of(TOKENS, INPUTS)
    lesson, optimizer = InputLesson([twin], 1.0), torch.optim.AdamW(twin.parameters(), lr=0.5, fused=True)
    outputs = list[Tensor]()
    for _ in range(2):
        for _part in lesson.parts(torch.zeros(2, 1)):
            outputs.append(twin(x))
            outputs[-1].square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert not torch.allclose(outputs[0], outputs[1])


# --- a model -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, InputLesson, Tensor]:
    """The model that ships, about to learn at half of its bytes; and the windows that it was calibrated on."""
    source = open_checkpoint(locate("stories260k"))
    calibration = Calibration(CalibrationSettings(**SHORT["calibration"]), source)
    student = trainable(source.spec, read_tensors(source)).requires_grad_(True)
    shop = Workshop(source, calibration, 0, tmp_path_factory.mktemp("scratch"), lambda *_: None, torch.device("cpu"))
    lesson = lesson_at(source, student, TierSettings(share=0.5), shop)
    assert isinstance(lesson, InputLesson)
    return student, lesson, calibration.windows


def test_before_it_learns_a_model_says_at_its_tier_what_the_product_says_there(learner: Any, tmp_path: Path) -> None:
    """But for inputs that stand so near the threshold that the last bits of a state decide."""
    student, lesson, windows = learner
    compress("stories260k", tmp_path / "out", {**SHORT, "stages": [{"moefy": TIERS}, INT8]})
    parts = list(windows.chunk(2))
    low, full = (load(tmp_path / "out", tier=tier)(part) for tier, part in zip(("low", "full"), parts, strict=True))
    found = [student(part).detach() for part in lesson.parts(windows)]
    assert (found[1] - full).norm() < 1e-4 * full.norm()
    lost = load(tmp_path / "out")(parts[0]) - low
    assert (found[0] - low).norm() < 0.2 * lost.norm()


def test_gradients_of_a_tier_reach_every_input_of_every_graded_linear(learner: Any) -> None:
    student, lesson, windows = learner
    for part in lesson.parts(windows):
        student(part).square().mean().backward()
        break  # those at the tier alone
    linears = [(name, each) for name, each in student.named_modules() if isinstance(each, AtTier)]
    assert len(linears) == 1 + 7 * len(student.layers)
    for name, each in linears:
        assert isinstance(each.weight.grad, Tensor) and bool(each.weight.grad.any(dim=0).all()), name


def test_distilled_at_its_tier_a_model_loses_less_there_and_is_graded(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Two cats sat on a wall and saw a dog. The dog saw no cat, for it slept. " * 8)
    text = [str(tmp_path / "text.txt")]
    base = {"calibration": {"text": text, "length": 64}, "evaluation": {"text": text, "truncate": 128}}
    lesson = {"tokens": 20 * 4 * 64, "batch": 4, "lr": 1e-3, "at": {"share": 0.5}}
    without = compress("stories260k", tmp_path / "a", {**base, "stages": PLAIN})
    learned = compress("stories260k", tmp_path / "b", {**base, "stages": [{"distill": lesson}, *PLAIN]}, rival=False)
    assert learned.tiers["low"]["kl_nats_per_token"] < 0.8 * without.tiers["low"]["kl_nats_per_token"]
    (tier,) = open_checkpoint(tmp_path / "b").record.tiers
    assert tier.calibrated["bytes_share"] == pytest.approx(0.5, rel=0.03)


# --- what a recipe says --------------------------------------------------------------------------------------------


def test_what_at_leaves_open_follows_from_moefy() -> None:
    def at(moefy: Mapping[str, Any], **settings: Any) -> Any:
        lesson = {"distill": {"tokens": 64, "at": {"share": 0.5, **settings}}}
        found: Any = read_recipe({"stages": [lesson, {"moefy": moefy}, INT8]}).all_stages[0].settings
        return found.at.grain, found.at.keep

    assert at({"grain": "inputs", "keep": ["embedding"]}) == ("inputs", ["embedding"])
    assert at({"keep": ["embedding"]}) == ("inputs", ["embedding"]) and at({}) == (None, [])
    assert at({"expert_size": 1, "bits": 4}) == ("neurons", [])
    assert at({"grain": "inputs", "keep": ["embedding"]}, keep=["layers.0.*"]) == ("inputs", ["layers.0.*"])
    assert at({"grain": "inputs", "keep": ["embedding"]}, bits=4) == ("neurons", [])


@pytest.mark.parametrize(
    ("at", "stages", "message"),
    [
        ({"bits": 4}, PLAIN, "at trains neurons, and moefy makes tiers of inputs; leave at.bits out"),
        ({"grain": "inputs"}, [{"moefy": {"expert_size": 1}}, INT8], "at trains inputs, .*; leave at.grain out"),
        ({}, [{"moefy": {"expert_size": 8}}, INT8], "at trains inputs, or experts of one neuron, and .* tiles"),
        ({"keep": ["embedding"]}, PLAIN, "at.keep has embedding, which the recipe grades"),
        (
            {}, [{"moefy": TIERS}, {"quantize": {"linears": "int8", "embeddings": False}}],
            "at grades embedding, which the recipe keeps whole; add it to at.keep",
        ),
        ({"keep": ["nowhere"]}, [INT8], "distill: at.keep names 'nowhere', and no linear has such a path"),
        ({"keep": ["*"]}, [INT8], "distill: at.keep leaves no linear to grade"),
        ({"share": 0.01}, [INT8], "at.share is 0.01, and what says which bits to read takes 0.0.* raise at.share"),
        ({"grain": "inputs", "bits": 4}, [INT8], "grain is 'inputs', and bits is a setting of neurons; leave one"),
        ({"grain": "neurons", "keep": ["embedding"]}, [INT8], "keep is for grain: inputs"),
        ({"keep": ["embedding"]}, [{"moefy": {"expert_size": 1}}, INT8], "moefy makes tiers of neurons; leave at.keep"),
    ],
)  # fmt: skip
def test_a_tier_that_the_recipe_does_not_make_is_refused(at: Any, stages: Any, message: str, tmp_path: Path) -> None:
    lesson = {"distill": {**AT, "at": {"share": 0.5, **at}}}
    with pytest.raises(RecipeError, match=message):
        compress("stories260k", tmp_path / "out", {**SHORT, "stages": [lesson, *stages]}, dry_run=True)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [{"distill": AT}, RELUFY, UNNAMED, INT8],
            "at trains inputs, and moefy makes tiers of neurons; say at.grain: neurons, or put relufy before distill",
        ),
        ([UNNAMED, RELUFY, INT8], "its tiers are of inputs where it stands and of neurons at the end"),
    ],
)
def test_tiers_that_a_change_of_activation_makes_others_are_refused(stages: Any, message: str, tmp_path: Path) -> None:
    opt(tmp_path / "model", activation_function="gelu")
    with pytest.raises(RecipeError, match=message):
        compress(str(tmp_path / "model"), tmp_path / "out", {**SHORT, "stages": stages}, dry_run=True)


def test_distillation_after_int8_is_refused_with_the_order(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="int8 weights, which cannot learn; distill before quantize"):
        compress("stories260k", tmp_path / "out", {**SHORT, "stages": [INT8, {"distill": AT}]}, dry_run=True)
