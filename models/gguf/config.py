"""What a GGUF file says of a model, as the config.json that Hugging Face readers expect."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..families.registry import FAMILIES
from .architectures import Architecture
from .tokenizer import START
from .values import Values

Scaling = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Read:
    """What a header says. stems: names of its tensors without layers, `attn_q.bias`; scaling: of positions."""

    values: Values
    architecture: Architecture
    vocab_size: int
    stems: Collection[str]
    scaling: Scaling


Own = Callable[[Read], dict[str, Any]]
_SIZES = {  # config.json -> the key, without the architecture's name
    "hidden_size": ".embedding_length", "intermediate_size": ".feed_forward_length",
    "num_hidden_layers": ".block_count", "num_attention_heads": ".attention.head_count",
    "max_position_embeddings": ".context_length",
}  # fmt: skip
_GPT2_SIZES = dict(zip(("n_embd", "n_inner", "n_layer", "n_head", "n_positions"), _SIZES.values(), strict=True))
_T5_SIZES = dict(zip(("d_model", "d_ff", "num_layers", "num_heads", "n_positions"), _SIZES.values(), strict=True))
_OWN_SIZES = {"gpt2": _GPT2_SIZES, "t5": _T5_SIZES}
_HEADS = _SIZES["num_attention_heads"]
_PARTLY_TURNED = ("phi3", "gpt_neox")
_LARGEST_GEMMA2, _LARGEST_GEMMA3 = 46, 62  # layers of the ones whose scores are scaled by another size than a head's
_GEMMA2_WINDOW, _GEMMA2_CAPS = 4096, (50.0, 30.0)  # of files that do not say
_GEMMA3_LOCAL_THETA = 10000.0
_T5_DISTANCE = 128  # from which on llama.cpp has all in one bucket
_SCALED_HEAD = ".scale_decoder_outputs"


def config_of(read: Read) -> dict[str, Any]:
    """The config.json of a file. Raises CheckpointError for what is missing, damaged, or not built."""
    values, stems, family = read.values, read.stems, read.architecture.family
    found: dict[str, Any] = {
        "architectures": [FAMILIES[family].architecture],
        "model_type": family,
        "vocab_size": read.vocab_size,
        **{key: values.count(theirs) for key, theirs in _OWN_SIZES.get(family, _SIZES).items()},
        "tie_word_embeddings": read.architecture.head == "never" or "output.weight" not in stems,
    }
    if family == "gpt2":
        return found | {"layer_norm_epsilon": values.number(".attention.layer_norm_epsilon")}
    if family == "bert":
        types = values.count("tokenizer.ggml.token_type_count", 2)
        return found | {"layer_norm_eps": values.number(".attention.layer_norm_epsilon"), "type_vocab_size": types}
    if family == "t5":
        return found | _t5(read)
    found |= _heads(values, family) | {"attention_bias": "attn_q.bias" in stems, "mlp_bias": "ffn_up.bias" in stems}
    return found | _NORMS.get(family, _rms)(values) | _OWN.get(family, _plain)(read)


def _t5(read: Read) -> dict[str, Any]:
    """A head that is scaled is the embedding, which a file has a second time, multiplied by the scale."""
    values, has_head = read.values, "output.weight" in read.stems
    size = values.count(".attention.key_length", values.count(".embedding_length") // values.count(_HEADS))
    values.same(".attention.value_length", size, "the size of a head")
    scaled = values.flag(_SCALED_HEAD, not has_head)
    start = values.token_id(f".{START}", read.vocab_size)
    return {
        "d_kv": size, "num_decoder_layers": values.count(".decoder_block_count", values.count(".block_count")),
        "layer_norm_epsilon": values.number(".attention.layer_norm_rms_epsilon"),
        "relative_attention_num_buckets": values.count(".attention.relative_buckets_count"),
        "relative_attention_max_distance": _T5_DISTANCE, "is_encoder_decoder": True,
        "feed_forward_proj": "gated-gelu" if "dec.blk.0.ffn_gate.weight" in read.stems else "relu",
        "tie_word_embeddings": scaled or not has_head, "scale_decoder_outputs": scaled,
        **({} if start is None else {START: start}),
    }  # fmt: skip


def _heads(values: Values, family: str) -> dict[str, Any]:
    heads, hidden = values.count(".attention.head_count"), values.count(".embedding_length")
    size = values.count(".attention.key_length", max(hidden // heads, 1))
    values.same(".attention.value_length", size, "the size of a head")
    if family not in _PARTLY_TURNED:
        values.same(".rope.dimension_count", size, "the size of a head")
    return {"num_key_value_heads": values.count(".attention.head_count_kv", heads), "head_dim": size}


def _rms(values: Values) -> dict[str, Any]:
    return {"rms_norm_eps": values.number(".attention.layer_norm_rms_epsilon")}


def _starcoder2_norm(values: Values) -> dict[str, Any]:
    return {"norm_epsilon": values.number(".attention.layer_norm_epsilon")}


def _gpt_neox_norm(values: Values) -> dict[str, Any]:
    return {"layer_norm_eps": values.number(".attention.layer_norm_epsilon")}


_NORMS: Mapping[str, Callable[[Values], dict[str, Any]]] = {"starcoder2": _starcoder2_norm, "gpt_neox": _gpt_neox_norm}


def _plain(read: Read) -> dict[str, Any]:
    return {"rope_theta": _theta(read.values), "rope_scaling": read.scaling}


def _theta(values: Values) -> float:
    return values.number(".rope.freq_base", 10000.0)


def _gpt_neox(read: Read) -> dict[str, Any]:
    return {
        "attention_bias": "attn_qkv.bias" in read.stems,
        "use_parallel_residual": read.values.flag(".use_parallel_residual", True),
        "rotary_pct": _turned_part(read.values),
        "rotary_emb_base": _theta(read.values),
        "rope_scaling": read.scaling,
    }


def _turned_part(values: Values) -> float:
    size = values.count(
        ".attention.key_length", values.count(".embedding_length") // values.count(".attention.head_count")
    )
    return values.count(".rope.dimension_count", size) / size


def _phi3(read: Read) -> dict[str, Any]:
    window = read.values.count(".attention.sliding_window") if read.values.has(".attention.sliding_window") else None
    part = {"partial_rotary_factor": _turned_part(read.values), "sliding_window": window}
    return _plain(read) | part


def _starcoder2(read: Read) -> dict[str, Any]:
    return _plain(read) | {"use_bias": "attn_q.bias" in read.stems, "sliding_window": None}


def _seed_oss(read: Read) -> dict[str, Any]:
    return _plain(read) | {"attention_out_bias": "attn_output.bias" in read.stems}


def _mixture(count: str, **more: Any) -> Own:
    """Of a mixture whose number of experts config.json calls `count`."""

    def own(read: Read) -> dict[str, Any]:
        width = read.values.count(".expert_feed_forward_length", read.values.count(".feed_forward_length"))
        active = read.values.count(".expert_used_count")
        experts = {count: read.values.count(".expert_count"), "num_experts_per_tok": active}
        widths = {"moe_intermediate_size" if read.architecture.family == "qwen3_moe" else "intermediate_size": width}
        return _plain(read) | experts | widths | more

    return own


def _gemma2(read: Read) -> dict[str, Any]:
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    return {
        **_plain(read),
        **{key: read.values.number(f".{key}", default) for key, default in zip(caps, _GEMMA2_CAPS, strict=True)},
        "query_pre_attn_scalar": _score_size(read.values, _LARGEST_GEMMA2),
        "sliding_window": read.values.count(".attention.sliding_window", _GEMMA2_WINDOW),
        "layer_types": _kinds(read.values, read.architecture),
    }


def _gemma3(read: Read) -> dict[str, Any]:
    cap = read.values.number(".final_logit_softcapping") if read.values.has(".final_logit_softcapping") else None
    return {
        **_two_ropes(read.values, read.scaling, read.values.number(".rope.freq_base_swa", _GEMMA3_LOCAL_THETA)),
        "final_logit_softcapping": cap, "query_pre_attn_scalar": _score_size(read.values, _LARGEST_GEMMA3),
        "sliding_window": read.values.count(".attention.sliding_window"),
        "layer_types": _kinds(read.values, read.architecture),
    }  # fmt: skip


def _olmo3(read: Read) -> dict[str, Any]:
    return {
        **_two_ropes(read.values, read.scaling, _theta(read.values)),
        "sliding_window": read.values.count(".attention.sliding_window"),
        "layer_types": _kinds(read.values, read.architecture),
    }  # fmt: skip


def _two_ropes(values: Values, scaling: Scaling, local_theta: float) -> dict[str, Any]:
    """Positions of layers that see all, which are scaled, and of those with a window, which are not."""
    full = {"rope_type": "default", "rope_theta": _theta(values), **(scaling or {})}
    local = {"rope_type": "default", "rope_theta": local_theta}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": local}}


def _kinds(values: Values, architecture: Architecture) -> list[str]:
    slides = values.slides(values.count(".block_count"), architecture.sliding)
    return ["sliding_attention" if each else "full_attention" for each in slides]


def _score_size(values: Values, largest: int) -> int:
    """What scores are divided by the square root of."""
    hidden, heads = values.count(".embedding_length"), values.count(".attention.head_count")
    size = hidden // heads
    return size if values.count(".block_count") == largest else values.count(".attention.key_length", size)


_OWN: Mapping[str, Own] = {
    "gpt_neox": _gpt_neox,
    "phi3": _phi3,
    "starcoder2": _starcoder2,
    "seed_oss": _seed_oss,
    "mixtral": _mixture("num_local_experts", sliding_window=None),
    "olmoe": _mixture("num_experts", norm_topk_prob=False),
    "qwen3_moe": _mixture("num_experts", norm_topk_prob=True),
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "olmo3": _olmo3,
}
