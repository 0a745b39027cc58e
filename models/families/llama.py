"""Llama (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, SwiGLU."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config
from .rope import ROPE, RopeKeys, read_rope

NAMES = {
    "embedding": "model.embed_tokens",
    "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
    "layers.{}.attention.query": "model.layers.{}.self_attn.q_proj",
    "layers.{}.attention.key": "model.layers.{}.self_attn.k_proj",
    "layers.{}.attention.value": "model.layers.{}.self_attn.v_proj",
    "layers.{}.attention.output": "model.layers.{}.self_attn.o_proj",
    "layers.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.gate": "model.layers.{}.mlp.gate_proj",
    "layers.{}.ffn.up": "model.layers.{}.mlp.up_proj",
    "layers.{}.ffn.down": "model.layers.{}.mlp.down_proj",
    "norm": "model.norm",
    "untied_head": "lm_head",
}
_MAX_HEAD_SIZE = 1 << 16
_MAX_CONTEXT = 2048  # of a config that does not say


def llama_spec(config: Config, rope: RopeKeys = ROPE) -> TransformerSpec:
    """The spec of a `LlamaForCausalLM` config. Raises CheckpointError for what is not built."""
    context = config.count("max_position_embeddings", _MAX_CONTEXT)
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    attention_bias = config.flag("attention_bias", False)
    if not config.has("head_dim") and hidden % heads:
        raise config.wrong("hidden_size", f"which does not divide into {heads} heads; give head_dim")
    attention = AttentionSpec(
        num_heads=heads,
        num_kv_heads=config.count("num_key_value_heads", heads),
        head_size=config.count("head_dim", max(hidden // heads, 1), limit=_MAX_HEAD_SIZE),
        bias=attention_bias,
        output_bias=attention_bias,
    )
    if attention.num_heads % attention.num_kv_heads or attention.head_size % 2:
        raise CheckpointError(
            f"config.json: {attention.num_heads} heads of size {attention.head_size} do not divide into "
            f"{attention.num_kv_heads} groups of an even size"
        )
    ffn = FFNSpec(
        width=config.count("intermediate_size"),
        activation=config.choice("hidden_act", ACTIVATIONS, "silu"),
        gated=True,
        bias=config.flag("mlp_bias", False),
        output_bias=config.flag("mlp_bias", False),
    )
    spec = TransformerSpec(
        family="llama",
        vocab_size=config.count("vocab_size"),
        hidden_size=hidden,
        max_context=context,
        norm="rms",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        tied_head=config.flag("tie_word_embeddings", False),
        rope=read_rope(config, attention.head_size, context, rope),
        layers=(LayerSpec(attention, ffn),) * config.count("num_hidden_layers", limit=MAX_LAYERS),
    )
    config.check_others()
    return spec


def llama_like(
    config: Config,
    family: str,
    defaults: Mapping[str, Any],
    own: Collection[str] = (),
    never: Collection[str] = ("attention_bias", "mlp_bias"),
    rope: RopeKeys = ROPE,
) -> TransformerSpec:
    """The spec of a family that is nearly Llama, to be changed where it is not.

    defaults: what an absent key means where it is not what it means to Llama. own: keys that the family obeys itself;
    never: flags of Llama that it does not have, whatever config.json says.
    """
    given = {key: value for key, value in config.values.items() if value is not None and key not in own}
    return replace(llama_spec(Config({**defaults, **given, **dict.fromkeys(never, False)}), rope), family=family)


def with_layers(spec: TransformerSpec, **changes: Sequence[Any]) -> TransformerSpec:
    """The spec with fields of attention replaced, a value a layer."""
    values = [dict(zip(changes, row, strict=True)) for row in zip(*changes.values(), strict=True)]
    layers = zip(spec.layers, values, strict=True)
    return replace(
        spec, layers=tuple(replace(layer, attention=replace(layer.attention, **each)) for layer, each in layers)
    )
