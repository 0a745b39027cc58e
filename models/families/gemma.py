"""Gemma (Gemma Team 2024): Llama with embeddings times sqrt(hidden), norms of gain 1 + weight, and a gate of GELU."""

from dataclasses import replace

from ..spec import TransformerSpec
from .config import Config
from .llama import llama_like

DEFAULTS = {"head_dim": 256, "max_position_embeddings": 8192, "tie_word_embeddings": True}
_GEMMA = {"num_key_value_heads": 16, "hidden_act": "gelu_pytorch_tanh"}
_LEGACY = {"gelu": "gelu_pytorch_tanh"}  # what the first files say, and what they were trained with


def gemma_spec(config: Config) -> TransformerSpec:
    """The spec of a `GemmaForCausalLM` config."""
    name = config.values.get("hidden_act")
    meant = {"hidden_act": _LEGACY.get(name, name)} if isinstance(name, str) else {}
    spec = llama_like(Config({**config.values, **meant}), "gemma", DEFAULTS | _GEMMA, never=("mlp_bias",))
    return scaled(spec)


def scaled(spec: TransformerSpec) -> TransformerSpec:
    """What all Gemmas share beyond Llama."""
    return replace(spec, embedding_scale=spec.hidden_size**0.5, norm_offset=1.0)
