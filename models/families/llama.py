"""Llama (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, SwiGLU."""

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, RopeSpec, TransformerSpec
from .config import MAX_LAYERS, Config

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
_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_MAX_HEAD_SIZE = 1 << 16
_SCALINGS = {"default": "default", "linear": "linear", "llama3": "llama3"}


def llama_spec(config: Config) -> TransformerSpec:
    """The spec of a `LlamaForCausalLM` config."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    attention_bias = config.flag("attention_bias", False)
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
        activation=config.choice("hidden_act", _ACTIVATIONS, "silu"),
        gated=True,
        bias=config.flag("mlp_bias", False),
        output_bias=config.flag("mlp_bias", False),
    )
    return TransformerSpec(
        family="llama",
        vocab_size=config.count("vocab_size"),
        hidden_size=hidden,
        max_context=config.count("max_position_embeddings", 2048),
        norm="rms",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        tied_head=config.flag("tie_word_embeddings", False),
        rope=_rope(config),
        layers=(LayerSpec(attention, ffn),) * config.count("num_hidden_layers", limit=MAX_LAYERS),
    )


def _rope(config: Config) -> RopeSpec:
    """Newer configs keep all in rope_parameters; older ones have rope_theta beside rope_scaling."""
    section = config.section("rope_parameters" if config.values.get("rope_parameters") else "rope_scaling")
    theta = config.number("rope_theta", 10000.0)
    kind = "rope_type" if section.values.get("rope_type") is not None else "type"
    plain = RopeSpec(theta)
    rope = RopeSpec(
        theta=section.number("rope_theta", theta),
        scaling=section.choice(kind, _SCALINGS, "default"),  # type: ignore[arg-type]
        factor=section.number("factor", plain.factor),
        low_frequency_factor=section.number("low_freq_factor", plain.low_frequency_factor),
        high_frequency_factor=section.number("high_freq_factor", plain.high_frequency_factor),
        original_context=section.count("original_max_position_embeddings", plain.original_context),
    )
    if rope.scaling == "llama3" and not rope.low_frequency_factor < rope.high_frequency_factor:
        raise CheckpointError(
            f"config.json: low_freq_factor is {rope.low_frequency_factor}, "
            f"it must be below high_freq_factor, {rope.high_frequency_factor}"
        )
    return rope
