"""Tensors that a file holds beyond what its config asks for: obeyed, proved redundant, or refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import edit_json, llama, opt
from safetensors.torch import load_file, save_file

import moesaic
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.rope import inverse_frequencies
from moesaic.models.spec import RopeSpec

IDS = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(1))
EMBEDDINGS = {llama: "model.embed_tokens.weight", opt: "model.decoder.embed_tokens.weight"}
ROTARY = "model.layers.{}.self_attn.rotary_emb.inv_freq"
Weights = dict[str, torch.Tensor]


def edit_weights(folder: Path, edit: Callable[[Weights], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def agrees_with_transformers(folder: Path) -> bool:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected, found = theirs(IDS).logits, load(folder)(IDS)
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def frequencies(theta: float) -> torch.Tensor:
    return inverse_frequencies(RopeSpec(theta), 8)


def add_frequencies(folder: Path, values: torch.Tensor) -> None:
    edit_weights(folder, lambda weights: weights.update({ROTARY.format(i): values.clone() for i in range(3)}))


# --- a head beside tie_word_embeddings ------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [llama, opt])
def test_another_head_in_a_tied_file_is_the_head(build: Any, tmp_path: Path) -> None:
    build(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": torch.randn(259, 48)}))
    assert not open_checkpoint(tmp_path).spec.tied_head
    assert agrees_with_transformers(tmp_path)


@pytest.mark.parametrize("build", [llama, opt])
def test_one_value_makes_it_another_head(build: Any, tmp_path: Path) -> None:
    build(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": weights[EMBEDDINGS[build]] + 0}))
    assert open_checkpoint(tmp_path).spec.tied_head
    edit_weights(tmp_path, lambda weights: weights["lm_head.weight"][258, 47].add_(1))
    assert not open_checkpoint(tmp_path).spec.tied_head
    assert agrees_with_transformers(tmp_path)


@pytest.mark.parametrize("build", [llama, opt])
def test_a_copy_of_the_embedding_is_read_once(build: Any, tmp_path: Path) -> None:
    build(tmp_path)
    before = open_checkpoint(tmp_path).weight_bytes
    edit_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": weights[EMBEDDINGS[build]] + 0}))
    assert open_checkpoint(tmp_path).weight_bytes == before
    assert agrees_with_transformers(tmp_path)


@pytest.mark.parametrize("build", [llama, opt])
def test_a_tied_file_may_call_the_one_matrix_the_head(build: Any, tmp_path: Path) -> None:
    build(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": weights.pop(EMBEDDINGS[build])}))
    assert open_checkpoint(tmp_path).spec.tied_head
    assert agrees_with_transformers(tmp_path)


def test_another_head_in_another_shard_is_found(tmp_path: Path) -> None:
    theirs = llama(tmp_path / "one", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "many", max_shard_size="60KB")
    edit_json(tmp_path / "many" / "config.json", tie_word_embeddings=True)
    assert torch.equal(load(tmp_path / "one")(IDS), load(tmp_path / "many")(IDS))


def test_another_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    llama(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": torch.zeros(300, 48)}))
    with pytest.raises(CheckpointError, match=r"lm_head.weight has the shape \[300, 48\], config.json asks for"):
        load(tmp_path)


def test_an_untied_file_without_a_head_is_refused(tmp_path: Path) -> None:
    llama(tmp_path)
    edit_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="the weights lack lm_head.weight, which config.json asks for"):
        load(tmp_path)


def test_what_is_made_of_it_keeps_the_head_and_says_so(tmp_path: Path) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    head = {"lm_head.weight": torch.randn(259, 48)}
    edit_weights(tmp_path / "model", lambda weights: weights.update(head))
    quick = {"stages": [{"quantize": {"linears": "int8"}}], "evaluation": {"documents": 1, "truncate": 16}}
    moesaic.compress(tmp_path / "model", tmp_path / "int8", quick)
    made = open_checkpoint(tmp_path / "int8")
    assert made.config["tie_word_embeddings"] is False and "untied_head.weight" in made.entries


# --- frequencies of older files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_frequencies_that_config_gives_too_are_left_aside(dtype: torch.dtype, tmp_path: Path) -> None:
    llama(tmp_path)
    add_frequencies(tmp_path, frequencies(10000.0).to(dtype))
    assert agrees_with_transformers(tmp_path)


def test_frequencies_from_before_they_were_scaled_are_left_aside(tmp_path: Path) -> None:
    llama(tmp_path, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0})
    add_frequencies(tmp_path, frequencies(10000.0))
    assert agrees_with_transformers(tmp_path)


@pytest.mark.parametrize("values", [frequencies(1e6), torch.ones(4), torch.ones(3), torch.zeros(4, dtype=torch.int32)])
def test_frequencies_of_other_positions_are_refused(values: torch.Tensor, tmp_path: Path) -> None:
    llama(tmp_path)
    add_frequencies(tmp_path, values)
    with pytest.raises(CheckpointError, match="inv_freq is of other positions than config.json asks for, rope_theta"):
        load(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["lm_head.bias", "model.layers.3.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "visual.patch.weight",
     "model.layers.0.self_attn.q_norm.weight", "model.layers.0.mlp.experts.0.up_proj.weight"],
)  # fmt: skip
def test_a_tensor_that_nothing_reads_is_refused_by_name(name: str, tmp_path: Path) -> None:
    llama(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({name: torch.zeros(4)}))
    with pytest.raises(CheckpointError, match=f"does not have, such as {name}; config.json does not fit"):
        load(tmp_path)
