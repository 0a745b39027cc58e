"""Every family in random tiny models, and what each of them shows: cases for tests and docs/families.md."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from builders import saved
from torch import Tensor

from moesaic.models.checkpoint import Checkpoint, read_tensors
from moesaic.models.families.registry import FAMILIES
from moesaic.models.linear import Embedding
from moesaic.models.spec import with_overrides
from moesaic.models.transformer import Transformer

_LLAMA: dict[str, Any] = {
    "vocab_size": 259, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "bos_token_id": 256, "eos_token_id": 257,
    "pad_token_id": None,
}  # fmt: skip
_ENCODER: dict[str, Any] = {
    "vocab_size": 259, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 6,
    "max_position_embeddings": 64,
}  # fmt: skip
_NO_HEAD_DIM = {key: value for key, value in _LLAMA.items() if key != "head_dim"}
BASES: Mapping[str, Mapping[str, Any]] = {  # a small config of each, everything else as transformers has it
    "llama": _NO_HEAD_DIM | {"tie_word_embeddings": True},
    "opt": {
        "vocab_size": 259, "hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 64, "word_embed_proj_dim": 48, "bos_token_id": 256, "eos_token_id": 257,
        "pad_token_id": None,
    },
    "gpt2": {
        "vocab_size": 259, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64, "n_inner": 88,
        "bos_token_id": 256, "eos_token_id": 257,
    },
    "gpt_neox": {
        "vocab_size": 259, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3, "num_attention_heads": 6,
        "max_position_embeddings": 64, "bos_token_id": 256, "eos_token_id": 257,
    },
    "mistral": _LLAMA | {"sliding_window": 7},
    "qwen2": _NO_HEAD_DIM,
    "qwen3": _LLAMA,
    "phi3": _NO_HEAD_DIM,
    "gemma": _LLAMA,
    "gemma2": _LLAMA | {"sliding_window": 7, "query_pre_attn_scalar": 11},
    "gemma3_text": _LLAMA | {"sliding_window": 7, "query_pre_attn_scalar": 11},
    "olmo2": _NO_HEAD_DIM,
    "mixtral": _LLAMA | {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24},
    "olmoe": _NO_HEAD_DIM | {"num_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 24},
    "qwen3_moe": _LLAMA | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "olmo3": _NO_HEAD_DIM | {"num_hidden_layers": 4, "sliding_window": 7},
    "seed_oss": _LLAMA,
    "starcoder2": _NO_HEAD_DIM,
    "smollm3": _NO_HEAD_DIM | {"num_hidden_layers": 4},
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "distilbert": {
        "vocab_size": 259, "dim": 48, "hidden_dim": 88, "n_layers": 3, "n_heads": 6, "max_position_embeddings": 64,
    },
    "mpnet": _ENCODER,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
DYNAMIC: dict[str, Any] = {"rope_type": "dynamic", "rope_theta": 300.0, "factor": 2.0}


@dataclass(frozen=True)
class Case:
    """A family with changes to its base, and the features that this shows."""

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.family} {', '.join(self.changes)}"

    def build(self, folder: Path) -> Any:
        """Saves a random model to `folder` and returns the original implementation's."""
        config = transformers.AutoConfig.for_model(self.family, **{**BASES[self.family], **self.changes})
        model = getattr(transformers, FAMILIES[self.family].architecture)(config)
        return saved(model, folder)


_UNTIED, _TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
_ODD = {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 52}
_QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
CASES = (
    Case("llama", {}, ("tied head", "groups of heads")),
    Case("llama", _UNTIED | _ODD | {"head_dim": 10}, ("untied head", "head size of its own", "one head of keys")),
    Case("llama", {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-2}, ("biases", "epsilon of norms")),
    Case("llama", {"rope_parameters": YARN}, ("yarn positions", "yarn frequencies")),
    Case("llama", {"rope_parameters": YARN | {
        "attention_factor": 1.3, "beta_fast": 6, "truncate": False, "rope_theta": 10.0,
        "original_max_position_embeddings": 48}},
         ("yarn positions", "yarn frequencies", "turns of yarn", "bounds of yarn")),
    Case("llama", {"rope_parameters": YARN | {"mscale": 2.0, "mscale_all_dim": 0.7}},
         ("yarn positions", "yarn frequencies")),
    Case("llama", {"rope_parameters": LLAMA3, "hidden_act": "gelu_pytorch_tanh"}, ("llama3 positions", "activation")),
    Case("llama", {"rope_parameters": LINEAR, "hidden_act": "relu"}, ("linear positions",)),
    Case("llama", {"rope_parameters": DYNAMIC}, ("dynamic positions",)),
    Case("opt", {}, ("biases", "learned positions", "tied head")),
    Case("opt", {"enable_bias": False, "num_attention_heads": 3, "ffn_dim": 52} | _UNTIED, ("untied head",)),
    Case("opt", {"activation_function": "gelu"}, ("activation",)),
    Case("gpt2", {}, ("biases", "learned positions", "fused tensors", "transposed tensors", "activation", "tied head")),
    Case("gpt2", {"n_head": 3, "n_inner": None, "n_embd": 36, "activation_function": "relu"} | _UNTIED,
         ("untied head", "fused tensors")),
    Case("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}, ("scale of scores",)),
    Case("gpt2", {"scale_attn_weights": False, "layer_norm_epsilon": 1e-2}, ("scale of scores", "epsilon of norms")),
    Case("gpt_neox", {}, ("parallel residual", "partial rotation", "fused tensors", "biases", "untied head")),
    Case("gpt_neox", {"use_parallel_residual": False, "hidden_act": "gelu_new"} | _TIED,
         ("tied head", "activation", "fused tensors")),
    Case("gpt_neox", {"attention_bias": False, "hidden_size": 36, "num_attention_heads": 3,
                      "rope_parameters": {"rope_type": "default", "rope_theta": 77.0, "partial_rotary_factor": 0.5}},
         ("parallel residual", "partial rotation")),
    Case("gpt_neox", {"rope_parameters": LINEAR | {"partial_rotary_factor": 1.0}}, ("linear positions",)),
    Case("mistral", {}, ("window", "untied head", "groups of heads")),
    Case("mistral", _TIED | _ODD | {"head_dim": 10, "sliding_window": 16},
         ("window", "head size of its own", "one head of keys")),
    Case("mistral", {"sliding_window": None, "rope_parameters": YARN}, ("yarn positions", "yarn frequencies")),
    Case("qwen2", {}, ("biases", "untied head", "groups of heads")),
    Case("qwen2", _TIED | _ODD, ("biases", "tied head", "one head of keys")),
    Case("qwen2", _QWEN_WINDOW | {"rope_parameters": YARN}, ("window", "biases", "yarn positions", "yarn frequencies")),
    Case("qwen3", {}, ("norm of queries and keys", "untied head", "groups of heads")),
    Case("qwen3", _TIED | _ODD | {"head_dim": 10},
         ("norm of queries and keys", "head size of its own", "tied head", "one head of keys")),
    Case("qwen3", _QWEN_WINDOW | {"attention_bias": True}, ("window", "biases", "norm of queries and keys")),
    Case("phi3", {}, ("fused tensors", "untied head", "groups of heads")),
    Case("phi3", _TIED | _ODD | {"sliding_window": 9}, ("fused tensors", "window", "tied head", "one head of keys")),
    Case("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}},
         ("fused tensors", "partial rotation")),
    Case("gemma", {}, ("scaled embeddings", "gain of 1 + weight", "tied head", "activation", "groups of heads")),
    Case("gemma", _ODD | {"head_dim": 14, "hidden_act": "gelu"},
         ("head size of its own", "scaled embeddings", "one head of keys")),
    Case("gemma", _UNTIED | {"attention_bias": True, "rope_parameters": LLAMA3}, ("untied head", "biases")),
    Case("gemma2", {}, ("soft cap of scores", "soft cap of logits", "norms after", "window", "scale of scores",
                        "scaled embeddings", "gain of 1 + weight", "groups of heads")),
    Case("gemma2", _UNTIED | _ODD | {"head_dim": 10, "attn_logit_softcapping": None, "final_logit_softcapping": 4.0},
         ("soft cap of logits", "untied head", "head size of its own", "one head of keys")),
    Case("gemma2", {"final_logit_softcapping": None, "attn_logit_softcapping": 2.0, "sliding_window": 16,
                    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
         ("soft cap of scores", "window")),
    Case("gemma3_text", {"num_hidden_layers": 4, "layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2},
         ("two rotations", "norm of queries and keys", "window", "norms after", "scale of scores", "groups of heads")),
    Case("gemma3_text", _UNTIED | _ODD | {"head_dim": 10, "final_logit_softcapping": 3.0},
         ("soft cap of logits", "untied head", "window", "one head of keys")),
    Case("gemma3_text", {"attention_bias": True, "num_hidden_layers": 7, "rope_parameters": {
        "full_attention": LINEAR | {"factor": 8.0}, "sliding_attention": {"rope_type": "default", "rope_theta": 99.0}}},
         ("two rotations", "biases", "linear positions")),
    Case("olmo2", {}, ("norms after", "norm of queries and keys", "untied head", "groups of heads")),
    Case("olmo2", _TIED | _ODD, ("norms after", "norm of queries and keys", "tied head")),
    Case("olmo2", {"attention_bias": True, "rope_parameters": LINEAR, "rms_norm_eps": 1e-2},
         ("biases", "linear positions", "epsilon of norms")),
    Case("mixtral", {}, ("mixture of experts", "untied head", "groups of heads", "expert weights of sum 1")),
    Case("mixtral", _TIED | _ODD | {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 9},
         ("window", "tied head", "one head of keys")),
    Case("mixtral", {"num_experts_per_tok": 5, "rope_parameters": YARN},
         ("mixture of experts", "yarn positions", "yarn frequencies")),
    Case("olmoe", {},
         ("mixture of experts", "norm of queries and keys", "untied head", "groups of heads",
          "expert weights as they are")),
    Case("olmoe", _TIED | _ODD | {"norm_topk_prob": True},
         ("mixture of experts", "tied head", "expert weights of sum 1")),
    Case("olmoe", {"attention_bias": True, "num_experts_per_tok": 4}, ("mixture of experts", "biases")),
    Case("qwen3_moe", {},
         ("mixture of experts", "norm of queries and keys", "untied head", "groups of heads",
          "expert weights as they are")),
    Case("qwen3_moe", _TIED | _ODD | {"decoder_sparse_step": 2, "norm_topk_prob": True},
         ("mixture of experts", "tied head", "one head of keys", "expert weights of sum 1", "layers without experts")),
    Case("qwen3_moe", {"mlp_only_layers": [1], "attention_bias": True, "use_sliding_window": True, "sliding_window": 9},
         ("mixture of experts", "window", "biases", "layers without experts")),
    Case("olmo3", {}, ("norms after", "norm of queries and keys", "window", "untied head", "groups of heads")),
    Case("olmo3", _TIED | _ODD | {"num_hidden_layers": 4, "attention_bias": True}, ("tied head", "biases", "window")),
    Case("olmo3", {"layer_types": ["sliding_attention", "full_attention"] * 2, "rope_parameters": {
        "full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 99.0}}},
         ("two rotations", "yarn positions", "window", "yarn frequencies")),
    Case("seed_oss", {}, ("biases", "untied head", "groups of heads")),
    Case("seed_oss", _TIED | _ODD | {"head_dim": 10, "attention_bias": False},
         ("head size of its own", "tied head", "one head of keys")),
    Case("seed_oss", {"attention_out_bias": True, "mlp_bias": True, "rope_parameters": YARN},
         ("biases", "yarn positions", "yarn frequencies")),
    Case("starcoder2", {}, ("biases", "activation", "tied head", "groups of heads")),
    Case("starcoder2", _UNTIED | _ODD | {"use_bias": False, "norm_epsilon": 1e-2, "sliding_window": 9},
         ("window", "untied head", "epsilon of norms", "one head of keys")),
    Case("starcoder2", {"rope_parameters": LINEAR, "hidden_act": "relu"}, ("linear positions", "activation")),
    Case("smollm3", {}, ("layers without positions", "tied head", "groups of heads")),
    Case("smollm3", _UNTIED | _ODD | {"no_rope_layers": [0, 1, 1, 0], "mlp_bias": True},
         ("layers without positions", "untied head", "biases", "one head of keys")),
    Case("smollm3", {"use_sliding_window": True, "sliding_window": 9, "no_rope_layer_interval": 2,
                     "attention_bias": True}, ("layers without positions", "window", "biases")),
)  # fmt: skip
DECODERS = tuple(dict.fromkeys(case.family for case in CASES))


def fullest(family: str) -> Case:
    """The case of a family that shows most."""
    return max((case for case in CASES if case.family == family), key=lambda case: len(case.features))


Plant = Callable[[Checkpoint], Transformer]


def without(**changes: Any) -> Plant:
    """A model whose spec says something else; "layer" keys have "layers.*." before them."""

    def plant(checkpoint: Checkpoint) -> Transformer:
        named = {key.replace("__", "."): value for key, value in changes.items()}
        there = {f"layers.*.{key}" if key.split(".")[0] in ("attention", "norms", "parallel", "ffn") else key: value
                 for key, value in named.items()}  # fmt: skip
        return built(checkpoint, there)

    return plant


def built(
    checkpoint: Checkpoint, overrides: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
) -> Transformer:
    """A model of a changed spec with the checkpoint's weights, as far as it has room for them."""
    with torch.device("meta"):
        model = Transformer(with_overrides(checkpoint.spec, overrides))
    there = model.state_dict()
    weights = {name: tensor for name, tensor in (tensors or dict(read_tensors(checkpoint))).items() if name in there}
    model.load_state_dict(weights, assign=True)
    for module in model.modules():
        if isinstance(module, Embedding):
            module.dtype = torch.float32
    model.prepare()
    return model.requires_grad_(False).eval()


def _exchanged(checkpoint: Checkpoint) -> Transformer:
    """Two parts of a fused tensor, of one size, have changed places."""
    tensors, gated = dict(read_tensors(checkpoint)), checkpoint.spec.layers[0].ffn.gated
    one, other = ("ffn.gate", "ffn.up") if gated else ("attention.query", "attention.key")
    for name in [each for each in tensors if one in each]:
        tensors[name], tensors[name.replace(one, other)] = tensors[name.replace(one, other)], tensors[name]
    return built(checkpoint, {}, tensors)


def _before(checkpoint: Checkpoint) -> Transformer:
    """The norms that stand after attention and FFN are left out, or, where there are no others, stand before them."""
    tensors = dict(read_tensors(checkpoint))
    moved = {name.replace("_post_norm", "_norm"): each for name, each in tensors.items() if "_post_norm" in name}
    return built(checkpoint, {"layers.*.norms": "before"}, moved | tensors)


def _turned(checkpoint: Checkpoint) -> Transformer:
    tensors = dict(read_tensors(checkpoint))
    square = {name: each.T for name, each in tensors.items() if name.endswith("attention.output.weight")}
    return built(checkpoint, {}, tensors | square)


def _fewer_experts(checkpoint: Checkpoint) -> Transformer:
    """A token takes one expert less."""
    active = max(layer.ffn.mixture.active for layer in checkpoint.spec.layers)
    return built(checkpoint, {"layers.*.ffn.mixture.active": active - 1})


def _other_groups(checkpoint: Checkpoint) -> Transformer:
    """Each group of query heads takes the keys and values of the one before it."""
    heads, tensors = checkpoint.spec.layers[0].attention.num_kv_heads, dict(read_tensors(checkpoint))
    rolled = {name: each.roll(len(each) // heads, 0) for name, each in _keys_and_values(tensors)}
    return built(checkpoint, {}, tensors | rolled)


def _own_keys(checkpoint: Checkpoint) -> Transformer:
    """Each head of queries has keys and values of its own: those that all share, turned by a number more each."""
    heads, tensors = checkpoint.spec.layers[0].attention.num_heads, dict(read_tensors(checkpoint))
    own = {name: torch.cat([each.roll(i, 0) for i in range(heads)]) for name, each in _keys_and_values(tensors)}
    return built(checkpoint, {"layers.*.attention.num_kv_heads": heads}, tensors | own)


def _keys_and_values(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, each in tensors.items():
        if ".attention.key." in name or ".attention.value." in name:
            yield name, each


def _stretched(checkpoint: Checkpoint) -> Transformer:
    """The base is stretched from the first token on, not behind the last one that the model was made for."""
    spec = checkpoint.spec
    assert spec.rope is not None
    size = spec.layers[0].attention.head_size
    return built(checkpoint, {"rope.theta": spec.rope.theta * DYNAMIC["factor"] ** (size / (size - 2))})


def _moved_mixtures(checkpoint: Checkpoint) -> Transformer:
    """Each layer has the FFN of the one before it, a mixture or none."""
    layers, tensors = checkpoint.spec.layers, dict(read_tensors(checkpoint))
    overrides, next_to = dict[str, Any](), {f"{i}": f"{(i + 1) % len(layers)}" for i in range(len(layers))}
    for i, before in enumerate((layers[-1], *layers[:-1])):
        overrides[f"layers.{i}.ffn.width"] = before.ffn.width
        for key, value in asdict(before.ffn.mixture).items():
            overrides[f"layers.{i}.ffn.mixture.{key}"] = value
    moved = re.compile(r"(?<=layers\.)\d+(?=\.ffn\.)")
    return built(
        checkpoint, overrides, {moved.sub(lambda i: next_to[i[0]], name): each for name, each in tensors.items()}
    )


def _shifted(checkpoint: Checkpoint) -> Transformer:
    tensors = dict(read_tensors(checkpoint))
    return built(checkpoint, {}, tensors | {"positions.weight": tensors["positions.weight"].roll(1, 0)})


def _biasless(checkpoint: Checkpoint) -> Transformer:
    tensors = dict(read_tensors(checkpoint))
    zeros = {name: torch.zeros_like(each) for name, each in tensors.items() if name.endswith(("query.bias", "up.bias"))}
    return built(checkpoint, {}, tensors | zeros)


def _untied(checkpoint: Checkpoint) -> Transformer:
    tensors = dict(read_tensors(checkpoint))
    return built(checkpoint, {}, tensors | {"untied_head.weight": tensors["embedding.weight"]})


def _tied(checkpoint: Checkpoint) -> Transformer:
    tensors = dict(read_tensors(checkpoint))
    return built(
        checkpoint, {"tied_head": False}, tensors | {"untied_head.weight": tensors["embedding.weight"].roll(1)}
    )


def _other_head_size(checkpoint: Checkpoint) -> Transformer:
    """Scores as of heads of hidden / heads values."""
    attention = checkpoint.spec.layers[0].attention
    usual = checkpoint.spec.hidden_size / attention.num_heads
    return built(checkpoint, {"layers.*.attention.scale": usual**-0.5})


PLANTS: Mapping[str, Plant] = {  # each feature, and a model in which it is wrong
    "tied head": _tied,
    "untied head": _untied,
    "biases": _biasless,
    "mixture of experts": _fewer_experts,
    "head size of its own": _other_head_size,
    "epsilon of norms": without(norm_eps=1e-5),
    "activation": without(ffn__activation="silu"),
    "learned positions": _shifted,
    "fused tensors": _exchanged,
    "transposed tensors": _turned,
    "scale of scores": without(attention__scale=0.0),
    "soft cap of scores": without(attention__soft_cap=0.0),
    "soft cap of logits": without(logit_soft_cap=0.0),
    "window": without(attention__window=0),
    "norm of queries and keys": without(attention__qk_norm="none"),
    "norms after": _before,
    "parallel residual": without(parallel=False),
    "partial rotation": without(rope__rotated=0),
    "two rotations": without(attention__rotary="main"),
    "layers without positions": without(attention__rotary="main"),
    "scaled embeddings": without(embedding_scale=1.0),
    "gain of 1 + weight": without(norm_offset=0.0),
    "linear positions": without(rope__factor=1.0),
    "llama3 positions": without(rope__scaling="default"),
    "dynamic positions": _stretched,
    "yarn positions": without(rope__magnitude=1.0),
    "yarn frequencies": without(rope__scaling="default"),
    "turns of yarn": without(rope__high_frequency_factor=32.0),
    "bounds of yarn": without(rope__truncate=True),
    "groups of heads": _other_groups,
    "one head of keys": _own_keys,
    "expert weights of sum 1": without(ffn__mixture__normalised=False),
    "expert weights as they are": without(ffn__mixture__normalised=True),
    "layers without experts": _moved_mixtures,
}


def table(cases: Sequence[Case]) -> Iterator[str]:
    """The rows of docs/families.md, made of the cases."""
    yield "| `model_type` | class | tiny models compared | what they show |"
    yield "| --- | --- | --- | --- |"
    for name, family in FAMILIES.items():
        mine = [case for case in cases if case.family == name]
        features = dict.fromkeys(feature for case in mine for feature in case.features)
        yield f"| `{name}` | `{family.architecture}` | {len(mine)} | {', '.join(features)} |"
