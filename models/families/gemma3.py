"""Gemma 3, text alone (Gemma Team 2025): five local layers to a global one, each kind with positions of its own, and an
RMS norm of every head of queries and keys.
"""

from dataclasses import replace

from ..spec import TransformerSpec
from .config import Config
from .gemma2 import NAMES as GEMMA2_NAMES
from .gemma2 import both_norms
from .llama import with_layers
from .qwen3 import QK_NORM_NAMES
from .rope import RopeKeys, rope_of_section

NAMES = GEMMA2_NAMES | QK_NORM_NAMES
_OWN = ("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq", "sliding_window_pattern")
_CONTEXT, _PATTERN = 131072, 6


def gemma3_spec(config: Config) -> TransformerSpec:
    """The spec of a `Gemma3ForCausalLM` config."""
    if config.has("attn_logit_softcapping"):
        raise config.wrong(
            "attn_logit_softcapping", "and scores of Gemma 3 have no cap, in transformers either; delete it"
        )
    pattern = config.count("sliding_window_pattern", _PATTERN)
    context = config.count("max_position_embeddings", _CONTEXT)
    with_context = Config({**config.values, "max_position_embeddings": context})
    spec = both_norms(with_context, "gemma3_text", lambda layer: (layer + 1) % pattern != 0, {}, _OWN)
    rotary = ["local" if layer.attention.window else "main" for layer in spec.layers]
    spec = with_layers(spec, rotary=rotary, qk_norm=["heads"] * len(rotary))
    return _with_positions(spec, config)


def _with_positions(spec: TransformerSpec, config: Config) -> TransformerSpec:
    """Newer configs have a section for each kind of layer, older ones a scaling of the global ones and two bases."""
    size, context, sections = spec.layers[0].attention.head_size, spec.max_context, config.section("rope_parameters")
    if not sections.values:
        older = config.section("rope_scaling")
        main = rope_of_section(older, config, size, context, RopeKeys(default_theta=1e6))
        local = rope_of_section(Config({}), config, size, context, RopeKeys("rope_local_base_freq"))
        return replace(spec, rope=main, local_rope=local)
    if config.has("rope_scaling"):
        raise config.wrong("rope_scaling", "beside rope_parameters; delete the one that is wrong")
    if unknown := [key for key in sections.values if key not in ("full_attention", "sliding_attention")]:
        raise sections.wrong(unknown[0], "it must hold full_attention and sliding_attention", repr(unknown[0])[:40])
    named = ("full_attention", RopeKeys(default_theta=1e6)), ("sliding_attention", RopeKeys("rope_local_base_freq"))
    main, local = (rope_of_section(sections.section(key), config, size, context, keys) for key, keys in named)
    return replace(spec, rope=main, local_rope=local)
