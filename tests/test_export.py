"""A model that only moesaic opens becomes one that every loader opens, with the same logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import llama, opt
from family_cases import Case
from safetensors.torch import load_file

from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.linear import dense_weight
from moesaic.models.transformer import Layer

PRUNED: dict[str, Any] = {
    "calibration": {"sequences": 4, "length": 32},
    "evaluation": {"documents": 1, "truncate": 16},
    "stages": [{"prune": {"remove": 0.3}}, {"moefy": {"expert_size": 7, "router_width": 3, "tiers": {"low": 0.7}}}],
}


@pytest.mark.parametrize("family", [llama, opt])
@pytest.mark.parametrize("int8", [False, True])
def test_pruned_experts_become_a_plain_model_with_the_same_logits(tmp_path: Path, family: Any, int8: bool) -> None:
    family(tmp_path / "model")
    stages = [*PRUNED["stages"], *([{"quantize": {"linears": "int8"}}] if int8 else [])]
    compress(tmp_path / "model", tmp_path / "small", {**PRUNED, "stages": stages})
    widths = {layer.ffn.width for layer in open_checkpoint(tmp_path / "small").spec.layers}
    export(tmp_path / "small", tmp_path / "plain", dtype="float32")
    ids = torch.arange(30).unsqueeze(0)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")(ids).logits
    ours = load(tmp_path / "small")(ids)
    assert len(widths) > 1 and (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_bias_that_the_family_cannot_say_is_refused(tmp_path: Path) -> None:
    opt(tmp_path / "model", enable_bias=False)
    compress(tmp_path / "model", tmp_path / "small", {**PRUNED, "stages": PRUNED["stages"][:1]})
    with pytest.raises(CheckpointError, match="cannot say what this model is"):
        export(tmp_path / "small", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


# --- int8 for other loaders ----------------------------------------------------------------------------------------

W8A8: dict[str, Any] = {**PRUNED, "stages": [{"quantize": {"linears": "int8", "activations": "dynamic"}}]}


@pytest.mark.parametrize("family", [llama, opt])
@pytest.mark.parametrize("pruned", [False, True])
def test_int8_weights_and_scales_are_written_in_their_places(tmp_path: Path, family: Any, pruned: bool) -> None:
    family(tmp_path / "model", num_hidden_layers=2)
    stages = [*PRUNED["stages"][: int(pruned)], *W8A8["stages"]]
    compress(tmp_path / "model", tmp_path / "small", {**W8A8, "stages": stages})
    export(tmp_path / "small", tmp_path / "out", "compressed-tensors", "float32")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    scales = {name: each for name, each in weights.items() if name.endswith("weight_scale")}
    assert len(scales) == 2 * (7 if family is llama else 6)
    for name, scale in scales.items():
        weight = weights[name.removesuffix("_scale")]
        assert weight.dtype == torch.int8 and scale.shape == (len(weight), 1)
    kinds = {each.dtype for name, each in weights.items() if not name.endswith(("weight", "weight_scale"))}
    assert kinds <= {torch.float32}


@pytest.mark.parametrize("family", [llama, opt])
def test_transformers_computes_what_was_exported_as_int8(tmp_path: Path, family: Any) -> None:
    pytest.importorskip("compressed_tensors")
    family(tmp_path / "model", num_hidden_layers=2)
    compress(tmp_path / "model", tmp_path / "small", {**W8A8, "stages": [*PRUNED["stages"][:1], *W8A8["stages"]]})
    export(tmp_path / "small", tmp_path / "out", "compressed-tensors", "float32")
    ids = torch.arange(30).unsqueeze(0)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)(ids).logits
    export(tmp_path / "small", tmp_path / "plain", "dense", "float32")
    ours, unrounded = load(tmp_path / "small")(ids), load(tmp_path / "plain")(ids)
    assert (theirs - unrounded).norm() < 1.5 * (ours - unrounded).norm()  # theirs divides by 127.5, ours by 127


@pytest.mark.parametrize(
    ("to", "told"),
    [
        ("compressed-tensors", "layers.0.attention.query is int8, .*activations: dynamic}`, or export --to dense"),
        ("compresed-tensors", "did you mean 'compressed-tensors'?"),
    ],
)
def test_a_form_that_cannot_be_had_is_refused_with_the_way_out(tmp_path: Path, to: str, told: str) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    compress(tmp_path / "model", tmp_path / "small", {**W8A8, "stages": [{"quantize": {"linears": "int8"}}]})
    with pytest.raises(CheckpointError, match=told):
        export(tmp_path / "small", tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_fused_tensors_are_written_with_the_scales_of_all_their_rows(tmp_path: Path) -> None:
    Case("phi3").build(tmp_path / "model")
    compress(tmp_path / "model", tmp_path / "small", W8A8)
    export(tmp_path / "small", tmp_path / "out", "compressed-tensors", "float32")
    weights, name = load_file(tmp_path / "out" / "model.safetensors"), "model.layers.0.self_attn.qkv_proj.weight"
    found = weights[name].float() * weights[f"{name}_scale"]
    layer = load(tmp_path / "small").layers[0]
    assert isinstance(layer, Layer)
    attention = layer.attention
    parts = [dense_weight(linear) for linear in (attention.query, attention.key, attention.value)]
    assert weights[f"{name}_scale"].shape == (80, 1) and torch.equal(found, torch.cat(parts))


def test_linears_that_lie_transposed_are_refused_for_compressed_tensors(tmp_path: Path) -> None:
    Case("gpt2").build(tmp_path / "model")
    compress(tmp_path / "model", tmp_path / "small", W8A8)
    with pytest.raises(CheckpointError, match="the linears of gpt2 lie transposed in its files"):
        export(tmp_path / "small", tmp_path / "out", "compressed-tensors")
