"""What a config.json may say wrongly: refused by one sentence that names the key, before memory is taken."""

import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_json
from encoder_cases import ENCODER_CASES
from family_cases import CASES, Case
from safetensors.torch import load_file, save_file
from source_cases import SOURCE_CASES

from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.families.registry import FAMILIES

ODD: list[Any] = [
    None, 0, -1, 1, 2, 3, 7, 8, 48, 10**6, 2**31 - 1, 2**62, 10**400, 0.5, -0.5, 1e-300, 1e30, float("nan"),
    float("inf"), "x", "gelu", "full_attention", True, False, [], [1], [0, 1, 1], ["sliding_attention"] * 3, [[[]]],
    {}, {"a": 1}, {"rope_type": "yarn", "factor": 4.0}, {"rope_type": "longrope"},
    {"full_attention": {"rope_type": "linear"}},
]  # fmt: skip
OWN = [
    "layer_types", "sliding_window", "use_sliding_window", "max_window_layers", "no_rope_layers", "rope_scaling",
    "rope_parameters", "rope_theta", "partial_rotary_factor", "rotary_pct", "rotary_emb_base", "head_dim",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "no_rope_layer_interval", "n_inner",
    "feed_forward_proj", "scale_decoder_outputs", "relative_attention_num_buckets", "relative_attention_max_distance",
    "scale_embedding", "decoder_ffn_dim", "encoder_layers", "num_decoder_layers", "sliding_window_pattern",
    "rope_local_base_freq", "original_max_position_embeddings", "architectures", "model_type",
]  # fmt: skip
ROUNDS, MOST_GROWTH_KB = 60, 300_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family."""
    folder = tmp_path_factory.mktemp("refusals")
    for family in FAMILIES:
        next(case for case in (*CASES, *ENCODER_CASES, *SOURCE_CASES) if case.family == family).build(folder / family)
    return {family: folder / family for family in FAMILIES}


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def with_config(folder: Path, values: dict[str, Any], where: Path) -> Path:
    """A directory with the same weights and another config.json."""
    where.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        if not (where / name).exists():
            (where / name).hardlink_to(folder / name)
    (where / "config.json").write_text(json.dumps(values))
    return where


def mutated(values: dict[str, Any], draw: random.Random) -> Iterator[dict[str, Any]]:
    keys = [*values, *OWN]
    for _ in range(ROUNDS):
        yield values | {draw.choice(keys): draw.choice(ODD) for _ in range(draw.choice([1, 1, 1, 2, 3]))}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mutated_config_is_obeyed_or_refused_in_a_sentence(
    family: str, models: dict[str, Path], tmp_path: Path
) -> None:
    values = json.loads((models[family] / "config.json").read_text())
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for each in mutated(values, random.Random(family)):
        folder = with_config(models[family], each, tmp_path / "model")
        try:
            with torch.no_grad():
                model, ids = load(folder), torch.arange(6).unsqueeze(0)
                context = model.context_of(ids, source=model.read(ids)) if model.spec.reads_sources else None
                assert model(ids, context=context).shape[:2] == (1, 6)
        except CheckpointError as error:
            refused += 1
            assert str(error).count("\n") == 0 and len(str(error)) < 600, each
    assert refused > ROUNDS // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KB


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("mistral", {"sliding_window": 0}, "sliding_window is 0, it must be a positive integer"),
    ("mistral", {"sliding_window": 3.5}, "sliding_window is 3.5, it must be a positive integer"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "sliding_window is missing, and layers of sliding_attention"),
    ("qwen3", {"layer_types": ["full_attention"]}, "it must be a list of 3 names, one a layer"),
    ("gemma2", {"layer_types": ["full_attention", "full_attention", "chunked"]}, "not 'chunked'"),
    ("gemma2", {"attn_logit_softcapping": -3}, "attn_logit_softcapping is -3, it must be a positive number"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, which moesaic does not"),
    ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping is 5.0, and scores of Gemma 3"),
    ("gemma3_text", {"rope_parameters": {"rope_type": "default"}}, "it must hold full_attention and sliding_attention"),
    ("phi3", {"rope_parameters": {"rope_type": "longrope"}}, "rope_type is 'longrope', moesaic knows default"),
    ("phi3", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn', moesaic knows default"),
    ("phi3", {"num_key_value_heads": 4}, "do not divide into 4 groups"),
    ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.1}}, "of a head of 8 that is 0 values"),
    ("gpt_neox", {"num_attention_heads": 5}, "hidden_size 48 does not divide into 5 heads"),
    ("gpt2", {"n_head": 5}, "n_embd 48 does not divide into n_head 5"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True, moesaic can only run False"),
    ("smollm3", {"no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers is [1, 0, 2, 1], it must be a list of 4 numbers"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}}, "it must be above 1"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 0.5}},
        "it must be below beta_fast",
    ),
    ("gemma2", {"hidden_activation": "relu2"}, "hidden_activation is 'relu2', moesaic knows"),
    ("bert", {"num_attention_heads": 5}, "hidden size 48 does not divide into 5 heads"),
    (
        "bert",
        {"position_embedding_type": "relative_key"},
        "position_embedding_type is 'relative_key', moes",
    ),
    ("bert", {"is_decoder": True}, "is_decoder is True, moesaic can only run False"),
    ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings is 2, and positions begin at 2"),
    ("roberta", {"pad_token_id": -1}, "pad_token_id is -1, it must be"),
    ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64, moesaic can only run 32"),
    ("distilbert", {"activation": "tanh"}, "activation is 'tanh', moesaic knows"),
    ("olmo2", {"hidden_act": "relu2"}, "hidden_act is 'relu2', moesaic knows"),
    ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj is 'gated-tanh', moesaic knows gated-gelu"),
    ("t5", {"is_decoder": True}, "is_decoder is True, moesaic can only run False"),
    ("t5", {"relative_attention_num_buckets": 7}, "buckets must be an even number from 4 on"),
    ("t5", {"relative_attention_max_distance": 9}, "and the distance larger than half of it"),
    ("bart", {"decoder_attention_heads": 5}, "d_model 48 does not divide into 5 decoder_attention_heads"),
    ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings is False, moesaic can o"),
    ("marian", {"decoder_vocab_size": 100}, "decoder_vocab_size is 100, moesaic can only run 259"),
]


@pytest.mark.parametrize(("family", "changes", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_a_value_that_cannot_be_is_refused_by_its_key(
    family: str, changes: dict[str, Any], words: str, models: dict[str, Path], tmp_path: Path
) -> None:
    values = json.loads((models[family] / "config.json").read_text()) | changes
    assert words in refusal(with_config(models[family], values, tmp_path / "model"))


def test_a_config_that_contradicts_a_tensor_is_told_with_both_shapes(models: dict[str, Path], tmp_path: Path) -> None:
    values = json.loads((models["phi3"] / "config.json").read_text()) | {"num_key_value_heads": 6}
    found = refusal(with_config(models["phi3"], values, tmp_path / "model"))
    assert "model.layers.0.self_attn.qkv_proj.weight has the shape [80, 48], config.json asks for [144, 48]" in found


@pytest.mark.parametrize(
    ("family", "tensor", "shapes"),
    [
        ("gpt2", "transformer.h.0.attn.c_attn.weight", "has the shape [48, 90], config.json asks for [48, 144]"),
        (
            "gpt_neox",
            "gpt_neox.layers.0.attention.query_key_value.bias",
            "has the shape [90], config.json asks for [144]",
        ),
    ],
)
def test_a_fused_tensor_of_another_shape_is_told_as_it_lies_in_the_file(
    family: str, tensor: str, shapes: str, tmp_path: Path
) -> None:
    Case(family).build(tmp_path)
    edit_tensors(tmp_path, lambda name, each: each[..., :90] if name == tensor else each)
    assert f"{tensor} {shapes}" in refusal(tmp_path)


def edit_tensors(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    changed = {name: change(name, each).contiguous() for name, each in weights.items()}
    save_file({name: each for name, each in changed.items() if each.numel()}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ("phi3", "self_attn.qkv_proj.weight"),
        ("olmo2", "self_attn.q_norm.weight"),
        ("gemma2", "pre_feedforward_layernorm.weight"),
    ],
)
def test_a_missing_and_a_surplus_tensor_are_told_by_name(family: str, named: str, tmp_path: Path) -> None:
    Case(family).build(tmp_path)
    edit_tensors(tmp_path, lambda name, each: each[:0] if named in name else each)
    assert f"the weights lack model.layers.0.{named}" in refusal(tmp_path)
    Case(family).build(tmp_path)
    weights = load_file(tmp_path / "model.safetensors") | {"model.layers.0.extra.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors")
    assert "such as model.layers.0.extra.weight" in refusal(tmp_path)


def test_an_unknown_family_is_told_what_runs_and_how_one_is_added(tmp_path: Path) -> None:
    Case("qwen3").build(tmp_path)
    edit_json(tmp_path / "config.json", model_type="qwen4")
    found = refusal(tmp_path)
    assert "model_type is 'qwen4'; moesaic runs the families llama, opt, gpt2" in found
    assert "did you mean 'qwen" in found and "CONTRIBUTING.md says how one is added" in found
