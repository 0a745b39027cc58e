"""Llama (Touvron et al. 2023): RMS norm, rotary positions, grouped-query attention, SwiGLU."""

from collections.abc import Mapping
from typing import Literal

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, RopeSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config

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
_SCALINGS: Mapping[str, tuple[str, ...]] = {  # each with the keys that it needs
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_NEUTRAL = {"factor": 1, "attention_factor": 1}  # where a scaling does not use them


def llama_spec(config: Config) -> TransformerSpec:
    """The spec of a `LlamaForCausalLM` config. Raises CheckpointError for what is not built."""
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
        max_context=config.count("max_position_embeddings", _MAX_CONTEXT),
        norm="rms",
        norm_eps=config.number("rms_norm_eps", 1e-6),
        tied_head=config.flag("tie_word_embeddings", False),
        rope=_rope(config),
        layers=(LayerSpec(attention, ffn),) * config.count("num_hidden_layers", limit=MAX_LAYERS),
    )
    config.check_others()
    return spec


def _rope(config: Config) -> RopeSpec:
    """Newer configs keep all in rope_parameters, older ones have rope_theta beside rope_scaling. Both must agree."""
    sections = [config.section(key) for key in ("rope_parameters", "rope_scaling")]
    found = [_rope_of(section, config) for section in sections if section.values]
    if not found:
        return _rope_of(sections[0], config)
    if found[0] != found[-1]:
        raise CheckpointError(
            "config.json: rope_scaling and rope_parameters ask for different positions; delete the one that is wrong"
        )
    return found[0]


def _rope_of(section: Config, config: Config) -> RopeSpec:
    """What a section asks for, with what stands beside it in config.json."""
    scaling = _scaling(section)
    for place in (section, config):
        place.only("partial_rotary_factor", 1, 1)
    theta = _agreed(section.number("rope_theta", config.number("rope_theta", 10000.0)), "rope_theta", config)
    if scaling == "llama3":
        return _llama3(section, config, theta)
    return RopeSpec(theta, scaling, section.number("factor", 1.0 if scaling == "default" else None))


def _llama3(section: Config, config: Config, theta: float) -> RopeSpec:
    """The scaling of Llama 3. Where the length before it is left out it is that of now, as in transformers."""
    key = "original_max_position_embeddings"
    context = config.count(key, config.count("max_position_embeddings", _MAX_CONTEXT))
    rope = RopeSpec(
        theta=theta,
        scaling="llama3",
        factor=section.number("factor"),
        low_frequency_factor=section.number("low_freq_factor"),
        high_frequency_factor=section.number("high_freq_factor"),
        original_context=int(_agreed(section.count(key, context), key, config)),
    )
    if not rope.low_frequency_factor < rope.high_frequency_factor:
        raise section.wrong("low_freq_factor", f"it must be below high_freq_factor, {rope.high_frequency_factor}")
    return rope


def _scaling(section: Config) -> Literal["default", "linear", "llama3"]:
    """The name of the scaling, by either key; it has all that it needs, and nothing that it cannot obey."""
    kinds = {name: name for name in _SCALINGS}
    names = [section.choice(key, kinds, "default") for key in ("rope_type", "type") if section.has(key)] or ["default"]
    if names[0] != names[-1]:
        raise section.wrong("type", f"and rope_type is {names[0]!r}; delete the one that is wrong")
    for key in _SCALINGS[names[0]]:
        if not section.has(key):
            raise section.wrong(key, f"and rope_type {names[0]!r} needs it")
    for key, value in section.values.items():
        used = key in _COMMON or key in _SCALINGS[names[0]]
        if not used and value is not None and value != _NEUTRAL.get(key):
            way_out = f"which rope_type {names[0]!r} does not have; name the rope_type that has it, or delete it"
            raise section.wrong(key, way_out)
    return names[0]  # type: ignore[return-value]


def _agreed(value: float, key: str, config: Config) -> float:
    """The value that a section has or takes from config.json itself, which must not say something else."""
    if config.has(key) and config.number(key) != value:
        raise config.wrong(key, f"beside another in the rope section, {value:g}; delete the one that is wrong")
    return value
