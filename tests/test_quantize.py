"""Rounding to int8 by rows: the error is bounded, whatever the numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama, opt

from moesaic.compress.pipeline import compress
from moesaic.compress.quantize.int8 import quantize_rows
from moesaic.compress.sizes import weight_bytes
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import RecipeError

RECIPE: dict[str, Any] = {
    "stages": [{"quantize": {"linears": "int8"}}],
    "evaluation": {"documents": 1, "truncate": 16},
}
LINEARS_ONLY: dict[str, Any] = {**RECIPE, "stages": [{"quantize": {"linears": "int8", "embeddings": False}}]}


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (123, 5), (64, 64), (0, 4)])
@pytest.mark.parametrize("size", [1e-42, 1e-38, 1e-30, 1e-3, 1.0, 1e5, 1e37])
def test_every_weight_is_within_half_a_step(shape: tuple[int, int], size: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * size
    quantized, scale = quantize_rows(weight)
    error = (weight.double() - scale.double().unsqueeze(1) * quantized.double()).abs()
    smallest = 1e-44  # below it fp32 has too few bits left for a scale
    assert (error <= scale.double().unsqueeze(1) * 0.50001 + 128 * smallest).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_int8_with_fp32_scales(dtype: torch.dtype) -> None:
    quantized, scale = quantize_rows(torch.randn(5, 9).to(dtype))
    assert (quantized.dtype, scale.dtype, scale.shape) == (torch.int8, torch.float32, (5,))
    assert quantized.abs().amax(dim=1).tolist() == [127] * 5


def test_a_row_of_zeros_stays_zero_beside_others() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    quantized, scale = quantize_rows(weight)
    assert scale[0] == 0 and quantized[0].tolist() == [0, 0] and quantized[1].tolist() == [64, -127]


def test_rounding_twice_changes_nothing_more() -> None:
    quantized, scale = quantize_rows(torch.randn(8, 33))
    again, _ = quantize_rows(scale.unsqueeze(1) * quantized)
    assert torch.equal(again, quantized)


MODELS: list[tuple[Any, dict[str, Any]]] = [
    (llama, {}),
    (llama, {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    (opt, {}),
    (opt, {"tie_word_embeddings": False, "enable_bias": False}),
]


@pytest.mark.parametrize(("build", "changes"), MODELS)
@pytest.mark.parametrize("recipe", [RECIPE, LINEARS_ONLY])
def test_every_family_is_close_to_its_original(
    tmp_path: Path, build: Any, changes: dict[str, Any], recipe: Any
) -> None:
    build(tmp_path / "dense", **changes)
    done = compress(tmp_path / "dense", tmp_path / "int8", recipe)
    ids = torch.arange(40).unsqueeze(0)
    dense, int8 = load(tmp_path / "dense")(ids), load(tmp_path / "int8")(ids)
    assert 0 < (dense - int8).abs().max() < 0.1 * dense.abs().max()
    assert done.bytes_after == open_checkpoint(tmp_path / "int8").weight_bytes < 0.75 * done.bytes_before


@pytest.mark.parametrize(("build", "changes"), MODELS)
def test_only_matrices_of_linears_and_tokens_become_int8(tmp_path: Path, build: Any, changes: dict[str, Any]) -> None:
    build(tmp_path / "dense", **changes)
    compress(tmp_path / "dense", tmp_path / "int8", RECIPE)
    after = dict(read_tensors(open_checkpoint(tmp_path / "int8")))
    for name, tensor in read_tensors(open_checkpoint(tmp_path / "dense")):
        if tensor.dim() == 2 and not name.startswith("positions"):
            rebuilt = after[name].float() * after[f"{name}_scale"].unsqueeze(1)
            assert (tensor - rebuilt).abs().max() <= after[f"{name}_scale"].max() * 0.5001
        else:
            assert torch.equal(tensor, after[name])


def test_embeddings_are_left_alone_when_asked(tmp_path: Path) -> None:
    llama(tmp_path / "dense", tie_word_embeddings=False)
    compress(tmp_path / "dense", tmp_path / "int8", LINEARS_ONLY)
    spec = open_checkpoint(tmp_path / "int8").spec
    assert (spec.embedding, spec.head, spec.layers[0].ffn.gate) == ("dense", "dense", "int8")


@pytest.mark.parametrize("twice", [RECIPE, LINEARS_ONLY])
def test_what_is_int8_already_is_refused(tmp_path: Path, twice: dict[str, Any]) -> None:
    llama(tmp_path / "dense")
    compress(tmp_path / "dense", tmp_path / "int8", RECIPE)
    with pytest.raises(RecipeError, match="is int8 already; start from the model before it was quantized"):
        compress(tmp_path / "int8", tmp_path / "again", twice)
    assert not (tmp_path / "again").exists()


def test_two_quantize_stages_in_a_recipe_are_refused(tmp_path: Path) -> None:
    llama(tmp_path / "dense")
    with pytest.raises(RecipeError, match="int8 already"):
        compress(tmp_path / "dense", tmp_path / "int8", {**RECIPE, "stages": RECIPE["stages"] * 2})


def test_planned_bytes_are_the_bytes_on_disk(tmp_path: Path) -> None:
    opt(tmp_path / "dense")
    compress(tmp_path / "dense", tmp_path / "int8", RECIPE)
    int8 = open_checkpoint(tmp_path / "int8")
    assert weight_bytes(int8.spec, open_checkpoint(tmp_path / "dense")) == int8.weight_bytes
