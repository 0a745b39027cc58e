"""Qwen 3 (Yang et al. 2025): Llama with an RMS norm of every head of queries and keys; the upper layers may slide."""

from ..spec import TransformerSpec
from .config import Config
from .llama import NAMES as LLAMA_NAMES
from .llama import llama_like, with_layers
from .qwen2 import DEFAULTS, SLIDING_KEYS, sliding_from

QK_NORM_NAMES = {
    "layers.{}.attention.query_norm": "model.layers.{}.self_attn.q_norm",
    "layers.{}.attention.key_norm": "model.layers.{}.self_attn.k_norm",
}
NAMES = LLAMA_NAMES | QK_NORM_NAMES


def qwen3_spec(config: Config) -> TransformerSpec:
    """The spec of a `Qwen3ForCausalLM` config."""
    spec = llama_like(config, "qwen3", {**DEFAULTS, "head_dim": 128}, SLIDING_KEYS, never=("mlp_bias",))
    return sliding_from(with_layers(spec, qk_norm=["heads"] * len(spec.layers)), config)
