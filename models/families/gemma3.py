"""Gemma 3, text alone (Gemma Team 2025): five local layers to a global one, each kind with positions of its own, and an
RMS norm of every head of queries and keys.
"""

from ..spec import TransformerSpec
from .config import Config
from .gemma2 import NAMES as GEMMA2_NAMES
from .gemma2 import both_norms
from .llama import with_layers
from .qwen3 import QK_NORM_NAMES
from .rope import RopeKeys
from .two_ropes import read_two_ropes

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
    spec = with_layers(spec, qk_norm=["heads"] * len(spec.layers))
    return read_two_ropes(spec, config, RopeKeys(default_theta=1e6), RopeKeys("rope_local_base_freq"))
