"""Linears that grade how far inputs are from what they mostly are: the int8 product at full, less error below it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_json, opt
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from moesaic.compress.distill.tier_linear import TierLinear
from moesaic.compress.moefy.centres import centres, leans, middle
from moesaic.compress.pipeline import compress
from moesaic.kernels.graded.worth import worth_of
from moesaic.models.checkpoint import EXPERTS_NAME, load, open_checkpoint
from moesaic.models.compute import Compute, OperatingPoints, Whole
from moesaic.models.errors import CheckpointError
from moesaic.models.linear import CentredLinear, GradedLinear, Int8Linear, Linear
from moesaic.models.record import RECORD_NAME
from moesaic.models.spec import CENTRED, INT8, FFNSpec, with_overrides


def int8_linear(outputs: int, inputs: int) -> Int8Linear:
    linear = Int8Linear(inputs, outputs, True)
    linear.weight.copy_(torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8))
    linear.weight_scale.copy_(torch.rand(outputs) / 100)
    linear.bias = torch.nn.Parameter(torch.randn(outputs), requires_grad=False)
    return linear


def graded(int8: Int8Linear, centre: Tensor | None = None) -> GradedLinear:
    outputs, inputs = int8.weight.shape
    with torch.device("meta"):
        linear = (GradedLinear if centre is None else CentredLinear)(inputs, outputs, True)
    linear.take(int8, worth_of(int8.weight, int8.weight_scale, 1.0))
    if isinstance(linear, CentredLinear) and centre is not None:
        linear.centre = centre
    linear.pack()
    return linear


def gelu_inputs(tokens: int, inputs: int) -> Tensor:
    """Each mostly rests at a value of its own."""
    rest = torch.linspace(-4.0, 0.0, inputs)
    return functional.gelu(rest + torch.randn(tokens, inputs) * torch.where(torch.rand(tokens, inputs) < 0.1, 2.0, 0.1))


def at(threshold: float, tokens: int) -> Compute:
    points = OperatingPoints([1.0] * tokens, torch.device("cpu"))
    return Compute.of(points, Whole(1.0, 1), torch.tensor([0.0, threshold]))


def test_at_full_it_gives_what_the_int8_linear_gives() -> None:
    torch.manual_seed(0)
    int8, x = int8_linear(70, 130), gelu_inputs(9, 130)
    wanted, found = int8(x), graded(int8, middle(x))(x)
    assert (found - wanted).norm() < 1e-4 * wanted.norm() and found.dtype == x.dtype


def test_where_inputs_rest_beside_0_it_loses_less_for_as_many_bits() -> None:
    torch.manual_seed(0)
    int8, x = int8_linear(96, 512), gelu_inputs(64, 512)
    int8.weight.clamp_(min=-20)  # rows that lean too, so that what is left unread of them adds up
    plain, centred = (error_at_half(graded(int8, c), x, int8(x)) for c in (None, middle(gelu_inputs(2048, 512))))
    assert centred < 0.3 * plain


def error_at_half(linear: GradedLinear, x: Tensor, wanted: Tensor) -> float:
    """At the least threshold at which the tokens read no more than half of the bytes."""
    for threshold in torch.logspace(-3, 2, 200):
        account = at(float(threshold), len(x))
        y = linear(x, account)
        if sum(read for read, _ in account.spent.shares(1)) / len(x) <= 0.5 * linear.whole_bytes:
            return float((y - wanted).norm() / wanted.norm())
    raise AssertionError("nothing reads half")


def test_the_middle_is_where_most_values_are_whatever_the_others() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(60, 5) / 100 - 0.1, torch.rand(30, 5) * 50])[torch.randperm(90)]
    assert (middle(x) + 0.1).abs().max() < 0.01
    assert (middle(torch.full((7, 2), -0.17)) + 0.17).abs().max() < 1e-6  # though a mean rounds off it


def test_centres_are_those_of_what_a_linear_is_given(tmp_path: Path) -> None:
    opt(tmp_path, activation_function="gelu")
    model, ids, path = load(tmp_path), torch.randint(0, 40, (6, 8)), "layers.0.ffn.down"
    seen: list[Tensor] = []
    hook = model.get_submodule(path).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(ids)
    hook.remove()
    assert torch.equal(centres(model, [path], ids)[path], middle(seen[0].flatten(0, 1)))
    assert centres(model, [], ids) == {}


def test_only_what_leans_is_centred(tmp_path: Path) -> None:
    assert leans(FFNSpec(8, "gelu", False)) and not leans(FFNSpec(8, "relu", False))
    assert not leans(FFNSpec(8, "gelu", True))
    opt(tmp_path)
    spec = open_checkpoint(tmp_path).spec
    with pytest.raises(ValueError, match="it must be one of dense, int8, int8_dynamic, int8_graded$"):
        with_overrides(spec, {"layers.0.attention.query": CENTRED})


def test_a_twin_that_learns_at_a_tier_computes_the_same() -> None:
    torch.manual_seed(0)
    int8, x = int8_linear(24, 40), gelu_inputs(12, 40)
    linear = graded(int8, middle(x))
    dense = Linear(40, 24, True)
    dense.weight.data, dense.bias = int8.weight * int8.weight_scale.unsqueeze(1), int8.bias
    twin = TierLinear.of(dense, linear.worth, 2.0)
    twin.centre, twin.at_tier = linear.get_buffer("centre"), True
    torch.testing.assert_close(twin(x), linear(x, at(2.0, len(x))), rtol=1e-3, atol=1e-2)


def test_a_model_of_gelu_is_taught_for_a_tier(tmp_path: Path) -> None:
    opt(tmp_path / "model", activation_function="gelu")
    lesson = {"distill": {"tokens": 96, "batch": 2, "at": {"grain": "inputs", "share": 0.6}}}
    assert open_checkpoint(made(tmp_path / "model", tmp_path / "out", lesson)).spec.layers[0].ffn.down == CENTRED


def made(model: Path, out: Path, *before: Mapping[str, Any], keep: Sequence[str] = ()) -> Path:
    compress(model, out, {
        "calibration": {"sequences": 16, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [
            *before, {"moefy": {"grain": "inputs", "tiers": {"low": 0.6}, "keep": list(keep)}},
            {"quantize": {"linears": "int8"}},
        ],
    })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def centred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("centred")
    opt(folder / "model", activation_function="gelu")
    return made(folder / "model", folder / "out")


def test_a_model_of_gelu_is_centred_in_down_alone_and_keeps_its_centres(centred: Path) -> None:
    model = load(centred)
    kinds = {name.rpartition(".")[2] for name, each in model.named_modules() if isinstance(each, CentredLinear)}
    assert kinds == {"down"}
    for name, each in model.named_modules():
        assert not isinstance(each, CentredLinear) or float(each.centre.abs().max()) > 0, name


def test_where_one_down_is_kept_whole_the_others_are_centred(tmp_path: Path) -> None:
    opt(tmp_path / "model", activation_function="gelu")
    checkpoint = open_checkpoint(made(tmp_path / "model", tmp_path / "out", keep=["layers.1.ffn.down"]))
    assert [layer.ffn.down for layer in checkpoint.spec.layers] == [CENTRED, INT8, CENTRED]
    active = checkpoint.record.tiers[0].calibrated["active_by_layer"]
    assert active[1] == 1 and 0 < active[0] < 1


def test_centres_that_no_text_gives_are_refused_by_name(centred: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(centred, tmp_path / "bad", copy_function=shutil.copyfile))
    tensors = load_file(bad / EXPERTS_NAME)
    tensors["layers.0.ffn.down.centre"].fill_(3e38)
    save_file(tensors, bad / EXPERTS_NAME)
    edit_json(bad / RECORD_NAME, files={})
    with pytest.raises(CheckpointError, match=r"layers.0.ffn.down.centre has values up to 3e\+38; copy it again"):
        load(bad)


def test_a_model_of_relu_is_not_centred(tmp_path: Path) -> None:
    opt(tmp_path / "model")
    model = load(made(tmp_path / "model", tmp_path / "out"))
    assert not any(isinstance(each, CentredLinear) for each in model.modules())
