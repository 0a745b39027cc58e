"""OLMo 2 (OLMo Team 2025): norms after attention and FFN alone, and an RMS norm of all query heads, and of all key
heads, as one vector.
"""

from dataclasses import replace

from ..spec import TransformerSpec
from .config import Config
from .llama import NAMES as LLAMA_NAMES
from .llama import llama_like, with_layers
from .qwen3 import QK_NORM_NAMES

NAMES = {ours: theirs for ours, theirs in LLAMA_NAMES.items() if not ours.endswith("_norm")} | QK_NORM_NAMES | {
    "layers.{}.attention_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn_post_norm": "model.layers.{}.post_feedforward_layernorm",
}  # fmt: skip
_DEFAULTS = {"rms_norm_eps": 1e-5}


def olmo2_spec(config: Config) -> TransformerSpec:
    """The spec of an `Olmo2ForCausalLM` config."""
    spec = llama_like(config, "olmo2", _DEFAULTS, never=("mlp_bias",))
    spec = with_layers(spec, qk_norm=["whole"] * len(spec.layers))
    return replace(spec, layers=tuple(replace(layer, norms="after") for layer in spec.layers))
