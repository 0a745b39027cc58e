"""Every family against the original implementation, on random tiny models, and every key of config.json.

What is obeyed is compared with what `transformers` makes of the same directory; what is refused names the key, and
mostly `transformers` refuses or ignores it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import edit_json, llama, opt

from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.errors import CheckpointError
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


# --- every key of config.json ---------------------------------------------------------------------------------------

IDS = torch.randint(0, 256, (2, 48), generator=torch.Generator().manual_seed(1))
BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, **BANDS}
LINEAR = {"rope_type": "linear", "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 500.0}
Variant = tuple[Any, dict[str, Any], dict[str, Any]]  # who builds, with which sizes; what config.json then says


def old_rope(scaling: Any = None, **beside: Any) -> Variant:
    """rope_scaling, as configs had it before rope_parameters."""
    return llama, {}, {"rope_parameters": None, "rope_scaling": scaling, **beside}


def new_rope(parameters: Any, **beside: Any) -> Variant:
    return llama, {}, {"rope_parameters": parameters, **beside}


def keys(build: Any, **changes: Any) -> Variant:
    """Keys that change no weight's shape."""
    return build, {}, changes


OBEYED: list[Variant] = [
    # rope
    old_rope(),
    old_rope(rope_theta=500.0),
    old_rope({}),
    old_rope({"type": "default", "factor": 1.0}),
    old_rope({"rope_type": "default"}, rope_theta=500),
    old_rope({"type": "linear", "factor": 4}, rope_theta=500.0),
    old_rope({"type": "linear", **LINEAR}),
    old_rope({"rope_type": "linear", "factor": 0.5}),
    old_rope(LINEAR | {"original_max_position_embeddings": 16}),
    old_rope(LLAMA3 | {"original_max_position_embeddings": 32}, rope_theta=500.0),
    old_rope(LLAMA3),
    old_rope(LLAMA3, max_position_embeddings=512, rope_theta=100.0),
    old_rope(LLAMA3, original_max_position_embeddings=16, rope_theta=100.0),
    old_rope({**LLAMA3, "original_max_position_embeddings": 16}, original_max_position_embeddings=16),
    old_rope({"type": "llama3", "factor": 3, "low_freq_factor": 2, "high_freq_factor": 9}, rope_theta=50.0),
    new_rope(PLAIN),
    new_rope(PLAIN, rope_theta=500.0),
    new_rope({"rope_type": "default"}, rope_theta=500.0),
    new_rope({"type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}, partial_rotary_factor=1),
    new_rope(PLAIN | LINEAR),
    new_rope(PLAIN | LLAMA3),
    new_rope(PLAIN | LLAMA3 | {"original_max_position_embeddings": 20}),
    new_rope(PLAIN | LINEAR, rope_scaling=PLAIN | LINEAR),
    new_rope(PLAIN | LINEAR, rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=500.0),
    new_rope(PLAIN, rope_scaling=None),
    # attention and FFN
    (llama, {"head_dim": 10}, {}),
    (llama, {"head_dim": 10}, {"head_dim": 10, "rope_parameters": None, "rope_scaling": LLAMA3}),
    (llama, {"num_key_value_heads": 6}, {"num_key_value_heads": None, "head_dim": None}),
    (llama, {"attention_bias": True}, {}),
    (llama, {"mlp_bias": True, "num_key_value_heads": 1}, {}),
    (llama, {"attention_bias": True, "mlp_bias": True, "head_dim": 4, "tie_word_embeddings": False}, {}),
    *(keys(llama, hidden_act=name) for name in ("swish", "relu", "gelu", "gelu_new", "gelu_fast")),
    keys(llama, hidden_act="gelu_accurate"),
    keys(llama, hidden_act="gelu_python"),
    keys(llama, hidden_act="gelu_python_tanh"),
    keys(llama, hidden_act=None, rms_norm_eps=None),
    keys(llama, rms_norm_eps=0.1),
    # what does not matter
    keys(llama, attention_dropout=0.5, initializer_range=0.3, use_cache=False, dtype="bfloat16"),
    keys(llama, pretraining_tp=2),
    keys(llama, sliding_window=None, use_sliding_window=False, layer_types=["full_attention"], is_causal=True),
    keys(llama, logits_scaling=1.0, embedding_multiplier=1, final_logit_softcapping=None, my_own_key=[1]),
    keys(llama, layer_norm_eps=0.5, n_embd=1, temperature=0.3),
    # OPT
    (opt, {"enable_bias": False}, {}),
    (opt, {"tie_word_embeddings": False}, {}),
    *(keys(opt, activation_function=name) for name in ("gelu", "gelu_new", "silu", "swish", "gelu_fast")),
    keys(opt, activation_function=None, word_embed_proj_dim=None, do_layer_norm_before=None, enable_bias=None),
    keys(opt, dropout=0.9, attention_dropout=0.9, layerdrop=0.9, activation_dropout=0.9, init_std=1.0, prefix="</s>"),
    keys(opt, layer_norm_elementwise_affine=True, _remove_final_layer_norm=False, layer_norm_eps=1e-5),
    keys(opt, rope_theta=5.0, head_dim=3, hidden_act="silu", activation_function="relu"),
]

REFUSED: list[tuple[Variant, str]] = [
    (old_rope({"rope_type": "linear"}), "rope_scaling.factor is missing, and rope_type 'linear' needs it"),
    (old_rope({"rope_type": "llama3", **BANDS}), "rope_scaling.factor is missing"),
    (
        new_rope({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}),
        "rope_parameters.high_freq_factor is missing, and",
    ),
    (old_rope({"factor": 8.0}), "rope_scaling.factor is 8.0, which rope_type 'default' does not have"),
    (old_rope({"type": "default", "rope_type": "linear", "factor": 2.0}), "rope_scaling.type is 'default', and rope_t"),
    (old_rope(LINEAR | BANDS), "rope_scaling.low_freq_factor is 1.0, which rope_type 'linear' does not have"),
    (old_rope(LLAMA3 | {"beta_fast": 32}), "rope_scaling.beta_fast is 32, which rope_type 'llama3' does not have"),
    (old_rope(LINEAR | {"attention_factor": 1.2}), "rope_scaling.attention_factor is 1.2"),
    (old_rope({"type": "su", "factor": 2.0}), "rope_scaling.type is 'su', moesaic knows default, dynamic, linear"),
    (old_rope({"rope_type": "yarn"}), "rope_scaling.factor is missing, and rope_type 'yarn' needs it"),
    (old_rope({"rope_type": "longrope", "short_factor": [1.0]}), "rope_scaling.rope_type is 'longrope'"),
    (old_rope(LLAMA3 | {"original_max_position_embeddings": 32}, original_max_position_embeddings=16), "original_max_"),
    (old_rope({**LLAMA3, "low_freq_factor": 4.0}), "rope_scaling.low_freq_factor is 4.0, it must be below high_fre"),
    (old_rope({"rope_type": "linear", "factor": 0}), "rope_scaling.factor is 0, it must be a positive number"),
    (old_rope({"rope_type": "linear", "factor": "2"}), "rope_scaling.factor is '2'"),
    (new_rope(PLAIN, rope_scaling=LINEAR), "rope_scaling and rope_parameters ask for different positions"),
    (new_rope(PLAIN, rope_scaling={"type": "default"}), "rope_scaling and rope_parameters ask for different"),
    (new_rope(PLAIN, rope_theta=777.0), "rope_theta is 777.0, beside another in the rope section, 500"),
    (new_rope(PLAIN | {"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor is 0.5"),
    (old_rope(partial_rotary_factor=0.25), "config.json: partial_rotary_factor is 0.25"),
    (new_rope({"full_attention": PLAIN}), "rope_parameters.full_attention is"),
    (keys(llama, hidden_act="quick_gelu"), "hidden_act is 'quick_gelu'"),
    (keys(llama, hidden_act="relu2"), "hidden_act is 'relu2'"),
    (
        keys(llama, hidden_size=50, head_dim=None),
        "hidden_size is 50, which does not divide into 6 heads; give head_dim",
    ),
    (keys(llama, is_causal=False), "is_causal is False, which moesaic does not compute"),
    (keys(llama, sliding_window=16), "sliding_window is 16"),
    (keys(llama, layer_types=["sliding_attention", "full_attention", "full_attention"]), "layer_types is"),
    (keys(llama, logits_scaling=8.0), "logits_scaling is 8.0"),
    (keys(llama, embedding_multiplier=12), "embedding_multiplier is 12"),
    (keys(llama, final_logit_softcapping=30.0), "final_logit_softcapping is 30.0"),
    (keys(llama, no_rope_layers=[1, 0, 1]), "no_rope_layers is [1, 0, 1]"),
    (keys(llama, clip_qkv=8.0), "clip_qkv is 8.0"),
    (keys(llama, alibi=True), "alibi is True"),
    (keys(llama, rope_parameters=None, rope_thetas=500.0), "rope_thetas is 500.0, and nothing reads this key; did you"),
    (keys(llama, tie_word_embeddings=None, tie_word_embedding=True), "did you mean tie_word_embeddings?"),
    (keys(llama, hidden_act=None, activation_function="gelu"), "did you mean hidden_act?"),
    (keys(llama, rms_norm_eps=None, layer_norm_eps=1e-3), "did you mean rms_norm_eps?"),
    (keys(llama, num_key_value_heads=None, num_kv_heads=2), "did you mean num_key_value_heads?"),
    (keys(opt, do_layer_norm_before=False), "do_layer_norm_before is False, moesaic can only run True"),
    (keys(opt, word_embed_proj_dim=24), "word_embed_proj_dim is 24, moesaic can only run 48"),
    (keys(opt, _remove_final_layer_norm=True), "_remove_final_layer_norm is True"),
    (keys(opt, layer_norm_elementwise_affine=False), "layer_norm_elementwise_affine is False"),
    (keys(opt, layer_norm_eps=1e-3), "layer_norm_eps is 0.001, moesaic can only run 1e-05"),
    (keys(opt, activation_function=None, hidden_act="gelu"), "did you mean activation_function?"),
    (keys(opt, activation_function="tanh"), "activation_function is 'tanh'"),
    (keys(opt, is_causal=False), "is_causal is False"),
    (keys(opt, do_layer_norm_before=None, do_layernorm_before=False), "did you mean do_layer_norm_before?"),
]


def made(variant: Variant, folder: Path) -> Path:
    build, sizes, changes = variant
    build(folder, num_hidden_layers=1, **sizes)
    edit_json(folder / "config.json", **changes)
    return folder


@pytest.mark.parametrize("variant", OBEYED, ids=lambda variant: str(variant[1] | variant[2]))
def test_what_is_obeyed_gives_the_logits_of_transformers(variant: Variant, tmp_path: Path) -> None:
    folder = made(variant, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected, found = theirs(IDS).logits, load(folder)(IDS)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("variant", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_not_obeyed_is_refused_by_its_name(variant: Variant, words: str, tmp_path: Path) -> None:
    folder = made(variant, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert words in str(caught.value) and str(caught.value).startswith("config.json: ")
