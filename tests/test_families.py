"""Every family against the original implementation, on random tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama, opt

from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.spec import RopeSpec

LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CASES: list[tuple[Any, dict[str, Any]]] = [
    (llama, {}),
    (llama, {"num_key_value_heads": 6, "head_dim": 10, "tie_word_embeddings": False}),
    (llama, {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    (llama, {"hidden_act": "gelu_pytorch_tanh", "rope_parameters": LLAMA3_ROPE}),
    (llama, {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    (opt, {}),
    (opt, {"enable_bias": False, "tie_word_embeddings": False}),
    (opt, {"activation_function": "gelu", "num_attention_heads": 3}),
]


@pytest.mark.parametrize(("build", "changes"), CASES)
def test_logits_equal_those_of_transformers(tmp_path: Path, build: Any, changes: dict[str, Any]) -> None:
    theirs = build(tmp_path, **changes)
    ids = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
        found = load(tmp_path)(ids)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("build", [llama, opt])
def test_sharded_weights_give_the_same_model(tmp_path: Path, build: Any) -> None:
    theirs = build(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="60KB")
    assert len(open_checkpoint(tmp_path / "many").files) > 1
    ids = torch.arange(20).unsqueeze(0)
    assert torch.equal(load(tmp_path / "one")(ids), load(tmp_path / "many")(ids))


def test_an_older_llama_config_keeps_its_rope_theta(tmp_path: Path) -> None:
    from builders import edit_json

    llama(tmp_path)
    edit_json(tmp_path / "config.json", rope_parameters=None, rope_theta=777.0)
    rope = open_checkpoint(tmp_path).spec.rope
    assert rope is not None and rope.theta == 777.0


def test_names_map_back_to_the_tensors_of_the_file(tmp_path: Path) -> None:
    theirs = opt(tmp_path)
    expected = theirs.state_dict()
    checkpoint = open_checkpoint(tmp_path)
    for ours, tensor in read_tensors(checkpoint):
        assert torch.equal(tensor, expected[checkpoint.family.their_name(ours)])


def test_null_in_a_config_stands_for_absent(tmp_path: Path) -> None:
    llama(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values |= {"rope_parameters": None, "rope_scaling": {"type": None, "factor": None}, "hidden_act": None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_checkpoint(tmp_path).spec.rope == RopeSpec(10000.0)
