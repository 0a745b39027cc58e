"""A model that only moesaic opens becomes one that every loader opens, with the same logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import llama, opt

from moesaic.compress.export import export_dense
from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError

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
    export_dense(tmp_path / "small", tmp_path / "plain", "float32")
    ids = torch.arange(30).unsqueeze(0)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")(ids).logits
    ours = load(tmp_path / "small")(ids)
    assert len(widths) > 1 and (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_bias_that_the_family_cannot_say_is_refused(tmp_path: Path) -> None:
    opt(tmp_path / "model", enable_bias=False)
    compress(tmp_path / "model", tmp_path / "small", {**PRUNED, "stages": PRUNED["stages"][:1]})
    with pytest.raises(CheckpointError, match="cannot say what this model is"):
        export_dense(tmp_path / "small", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
