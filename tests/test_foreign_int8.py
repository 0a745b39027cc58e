"""int8 weights that others wrote, opened as int8: the same numbers as their own libraries make of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_json, llama
from family_cases import Case
from safetensors.torch import load_file, save_file
from torch import Tensor

from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError
from moesaic.models.linear import multiplied_out

IDS = torch.arange(30).unsqueeze(0)
W8A8: dict[str, Any] = {
    "calibration": {"sequences": 4, "length": 32},
    "evaluation": {"documents": 1, "truncate": 16},
    "stages": [{"quantize": {"linears": "int8", "activations": "dynamic"}}],
}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False, "llm_int8_threshold": 6.0}


def multiplied(folder: Path) -> dict[str, Tensor]:
    """Our tensors of a directory, int8 ones multiplied out."""
    tensors = dict(read_tensors(open_checkpoint(folder)))
    scales = {name: each for name, each in tensors.items() if name.endswith("_scale")}
    return {name: multiplied_out(name, each, scales) for name, each in tensors.items() if name not in scales}


def as_bitsandbytes(folder: Path) -> dict[str, Tensor]:
    """Rounds the linears of a saved model as bitsandbytes does; gives what it multiplies out of each."""
    functional = pytest.importorskip("bitsandbytes.functional")
    weights, whole = load_file(folder / "model.safetensors"), dict[str, Tensor]()
    for name in [each for each in weights if each.endswith("proj.weight")]:
        int8, largest, _ = functional.int8_vectorwise_quant(weights[name].half())
        module = name.removesuffix("weight")
        weights |= {name: int8, f"{module}SCB": largest, f"{module}weight_format": torch.tensor(0, dtype=torch.uint8)}
        whole[name] = functional.int8_vectorwise_dequant(int8, largest)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", quantization_config=BITSANDBYTES)
    return whole


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_bitsandbytes_is_read_as_it_multiplies_out_itself(family: str, tmp_path: Path) -> None:
    Case(family, {"tie_word_embeddings": False}).build(tmp_path)
    theirs, checkpoint = as_bitsandbytes(tmp_path), open_checkpoint(tmp_path)
    assert {layer.ffn.up for layer in checkpoint.spec.layers} == {"int8"} and checkpoint.spec.head == "dense"
    found, layer = multiplied(tmp_path), "model.layers.1.self_attn"
    ours = [found[f"layers.1.attention.{each}.weight"] for each in ("query", "key", "value")]
    names = ["qkv_proj"] if family == "phi3" else ["q_proj", "k_proj", "v_proj"]
    wanted = torch.cat([theirs[f"{layer}.{each}.weight"] for each in names])
    torch.testing.assert_close(torch.cat(ours), wanted, rtol=1e-6, atol=0)
    assert load(tmp_path)(IDS).isfinite().all()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3"])
def test_compressed_tensors_come_back_as_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    Case(family).build(tmp_path / "model")
    compress(tmp_path / "model", tmp_path / "small", W8A8)
    export(tmp_path / "small", tmp_path / "out", "compressed-tensors", "float32")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.spec.layers[0].attention.query == "int8_dynamic"
    torch.testing.assert_close(load(tmp_path / "out")(IDS), load(tmp_path / "small")(IDS), rtol=1e-4, atol=1e-4)


def test_compressed_tensors_are_read_as_their_own_library_multiplies_out(tmp_path: Path) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    arguments = pytest.importorskip("compressed_tensors.quantization").QuantizationArgs(
        num_bits=8, type="int", symmetric=True, strategy="channel"
    )
    llama(tmp_path / "model", num_hidden_layers=1)
    compress(tmp_path / "model", tmp_path / "small", W8A8)
    export(tmp_path / "small", tmp_path / "out", "compressed-tensors", "float32")
    weights, name = load_file(tmp_path / "out" / "model.safetensors"), "model.layers.0.mlp.up_proj.weight"
    theirs = quantization.dequantize(weights[name], weights[f"{name}_scale"], args=arguments, dtype=torch.float32)
    assert torch.equal(multiplied(tmp_path / "out")["layers.0.ffn.up.weight"], theirs)


def test_what_came_in_as_int8_goes_out_for_transformers(tmp_path: Path) -> None:
    llama(tmp_path / "model", num_hidden_layers=2)
    as_bitsandbytes(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "plain", dtype="float32")
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    assert (load(tmp_path / "plain")(IDS) - load(tmp_path / "model")(IDS)).abs().max() < 1e-4


def changed(part: str, **values: Any) -> dict[str, Any]:
    """The quantization_config that we write, with values of its one group changed."""
    from moesaic.compress.export import _W8A8

    section: dict[str, Any] = json.loads(json.dumps(_W8A8))
    section["config_groups"]["group_0"][part].update(values)
    return section


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            changed("weights", num_bits=4),
            "quantization_config has weights.num_bits 4; of compressed-tensors",
        ),
        (changed("weights", strategy="group", group_size=32), "has weights.strategy group"),
        (changed("weights", symmetric=False), "has weights.symmetric False"),
        (changed("input_activations", dynamic=False), "has input_activations.dynamic False"),
        (changed("weights") | {"kv_cache_scheme": {"num_bits": 8}}, "has kv_cache_scheme"),
        (changed("weights") | {"config_groups": None}, "has config_groups None"),
        (
            changed("weights") | {"format": "pack-quantized"},
            "asks for 'compressed-tensors', which moesaic",
        ),
        (BITSANDBYTES | {"load_in_8bit": False}, "asks for 'bitsandbytes', which moesaic does not read"),
    ],
)
def test_int8_of_another_kind_is_refused_by_its_key(section: Mapping[str, Any], said: str, tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=1)
    edit_json(tmp_path / "config.json", quantization_config=section)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


def test_linears_that_lie_transposed_are_refused(tmp_path: Path) -> None:
    Case("gpt2").build(tmp_path)
    edit_json(tmp_path / "config.json", quantization_config=BITSANDBYTES)
    with pytest.raises(CheckpointError, match="the linears of gpt2 lie transposed in files"):
        open_checkpoint(tmp_path)


def test_scales_that_are_missing_are_named(tmp_path: Path) -> None:
    llama(tmp_path, num_hidden_layers=1)
    as_bitsandbytes(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.SCB"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="the weights lack model.layers.0.mlp.up_proj.weight_scale"):
        open_checkpoint(tmp_path)
