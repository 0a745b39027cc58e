"""Keys of config.json that no family here reads: which of them change what a model computes, and which do not matter.

A key that `transformers` itself does not read for a family cannot change its logits, and so is let through: those of
training (dropout, initializer_range), of other software (dtype, transformers_version, use_cache, id2label), and what a
formula has no more than one result for (pretraining_tp splits a product into parts that are added up again). Two
kinds are not: what turns another architecture into a different function without any tensor of its own, since a file
with such a key was made for that function; and what is a name of a key that is read, written otherwise.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..suggestion import meant

NEUTRAL: Mapping[str, tuple[Any, ...]] = {  # the values at which each of them changes nothing; null is one of all
    # which keys a query sees
    "is_causal": (True,), "use_bidirectional_attention": (False,), "sliding_window": (), "attention_window_size": (),
    "attention_chunk_size": (), "use_sliding_window": (False,), "alibi": (False,), "use_alibi": (False,),
    # positions
    "no_rope_layers": ([],), "no_rope_layer_interval": (0,), "rotary_pct": (1,), "rotary_interleaved": (False,),
    "rope_interleaved": (False,), "use_dynamic_ntk": (False,), "use_logn_attn": (False,),
    # factors and bounds on what flows
    "embedding_multiplier": (1,), "residual_multiplier": (1,), "attention_multiplier": (), "logits_scaling": (1,),
    "logit_scale": (1,), "lm_head_multiplier": (1,), "key_multiplier": (1,), "scale_emb": (1,), "scale_depth": (),
    "query_pre_attn_scalar": (), "attn_temperature_tuning": (False,), "clip_qkv": (), "scale_embeddings": (False,),
    "attn_logit_softcapping": (0,), "final_logit_softcapping": (0,), "logit_softcap": (0,), "logits_soft_cap": (0,),
    # the order of the blocks
    "parallel_attn": (False,), "use_parallel_residual": (False,), "parallel_residual": (False,),
    "apply_residual_connection_post_layernorm": (False,),
}  # fmt: skip
_FULL = "full_attention"
_ALIASES: Mapping[str, str] = {
    "activation_function": "hidden_act", "hidden_activation": "hidden_act", "hidden_act": "activation_function",
    "layer_norm_eps": "rms_norm_eps", "num_kv_heads": "num_key_value_heads", "n_head_kv": "num_key_value_heads",
}  # fmt: skip


def is_foreign(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a key of this config asks for a function that no family here computes."""
    value = values[key]
    if key == "layer_types":  # a name for each layer
        return not isinstance(value, list) or any(kind != _FULL for kind in value)
    if key == "sliding_window" and values.get("use_sliding_window") is False:
        return False
    return key in NEUTRAL and value is not None and value not in NEUTRAL[key]


def meant_by(key: str, unset: Collection[str]) -> str | None:
    """The key of `unset`, those that are read and not there, which this one is another spelling of; or None."""
    return _ALIASES[key] if _ALIASES.get(key) in unset else meant(key, unset, likeness=0.9)
