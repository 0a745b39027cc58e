"""W8A8: what enters is rounded per token, and from there on every sum is an integer."""

from pathlib import Path

import pytest
import torch
from builders import llama

from moesaic.compress.pipeline import compress
from moesaic.kernels import int8_dynamic_linear as int8_dynamic_linear_module
from moesaic.kernels import int8_product as int8_product_module
from moesaic.kernels.int8_dynamic_linear import (
    choose_int8_dynamic_linear,
    int8_dynamic_linear,
    int8_dynamic_linear_torch,
    integer_product,
    quantize_tokens,
)
from moesaic.kernels.int8_product import int8_product
from moesaic.models.checkpoint import load, open_checkpoint


def operands(tokens: int, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, inputs, generator=draw)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=draw, dtype=torch.int8)
    return x, weight, torch.rand(outputs, generator=draw) / 100, torch.randn(outputs, generator=draw)


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"), [(1, 37, 5), (3, 1100, 7), (33, 64, 48), (2, 1, 1), (5, 1, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_is_that_of_exact_integers(tokens: int, inputs: int, outputs: int, dtype: torch.dtype) -> None:
    x, weight, scale, bias = operands(tokens, inputs, outputs)
    ours, exact = (op(x.to(dtype), weight, scale, bias) for op in (int8_dynamic_linear, int8_dynamic_linear_torch))
    assert torch.equal(ours, exact) and ours.dtype == dtype


@pytest.mark.gpu
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 37, 5), (1, 576, 1536), (33, 64, 48), (5, 4096, 4096)])
def test_the_result_on_cuda_is_that_of_exact_integers(tokens: int, inputs: int, outputs: int) -> None:
    case = [each.cuda() for each in operands(tokens, inputs, outputs)]
    assert torch.equal(int8_dynamic_linear(*case), int8_dynamic_linear_torch(*case))


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x, weight, scale, bias = operands(40, 65, 33)
    together = int8_dynamic_linear(x, weight, scale, bias)
    assert all(
        torch.equal(int8_dynamic_linear(row, weight, scale, bias), y) for row, y in zip(x, together, strict=True)
    )


def test_rounding_is_at_most_half_a_step_and_zeros_stay() -> None:
    x = operands(9, 50, 1)[0]
    x[4] = 0
    integers, scale = quantize_tokens(x)
    assert (integers * scale - x).abs().max() <= 0.51 * scale.max() and integers.abs().max() == 127
    assert not integers[4].any() and torch.equal(integers, integers.round())


def test_the_distance_from_weight_only_is_that_of_the_activations() -> None:
    x, weight, scale, _ = operands(16, 512, 64)
    exact = x @ (weight.float() * scale.unsqueeze(1)).T
    assert (int8_dynamic_linear(x, weight, scale) - exact).norm() < 0.015 * exact.norm()


def test_the_choice_is_integers_where_the_machine_has_them() -> None:
    assert choose_int8_dynamic_linear("cpu", 5, 37, 7) == "integers"
    assert choose_int8_dynamic_linear("cuda", 5, 64, 8) == "integers"
    unfit = [("cuda", 5, 37, 8), ("cuda", 5, 64, 7), ("mps", 5, 64, 8), ("cpu", 0, 64, 8)]
    assert {choose_int8_dynamic_linear(*case) for case in unfit} == {"floats"}


@pytest.mark.parametrize("inputs", [1, 37, 4096])
def test_a_product_in_floats_is_that_in_integers(inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, weight, _, _ = operands(3, inputs, 5)
    integers = torch.randint(-127, 128, (3, inputs)).float()
    exact = torch.nn.functional.linear(integers.double(), weight.double()).float()
    assert torch.equal(integer_product(integers, weight), exact)
    monkeypatch.setattr(int8_dynamic_linear_module, "choose_int8_dynamic_linear", lambda *_: "floats")
    assert torch.equal(integer_product(integers, weight), exact)


@pytest.mark.parametrize("inputs", [1, 37, 1024, 2500])
@pytest.mark.parametrize("as_it_is", [True, False])
def test_products_of_the_largest_integers_are_exact(
    inputs: int, as_it_is: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not as_it_is:
        monkeypatch.setattr(int8_product_module, "cpu_has_integers", lambda: False)
    rows, weight = (torch.randint(-128, 128, (3, inputs), dtype=torch.int8) for _ in range(2))
    rows[0] = weight[0] = -128
    exact = rows.long() @ weight.long().t()
    with torch.autocast("cpu", torch.bfloat16):
        assert int8_product(rows, weight.t()).equal(exact.int())


def test_a_recipe_makes_a_model_of_it(tmp_path: Path) -> None:
    llama(tmp_path / "model")
    stages = [{"quantize": {"linears": "int8", "activations": "dynamic"}}]
    compress(tmp_path / "model", tmp_path / "out", {"stages": stages, "evaluation": {"documents": 1, "truncate": 16}})
    spec = open_checkpoint(tmp_path / "out").spec
    assert spec.layers[0].ffn.up == spec.layers[1].attention.query == "int8_dynamic" and spec.embedding == "int8"
    ids = torch.arange(20).unsqueeze(0)
    dense, ours = load(tmp_path / "model")(ids), load(tmp_path / "out")(ids)
    assert 0 < (ours - dense).norm() < 0.1 * dense.norm()
