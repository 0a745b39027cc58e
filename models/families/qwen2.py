"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases of query, key and value; the upper layers may slide."""

from ..spec import TransformerSpec
from .config import Config
from .llama import llama_like, with_layers
from .windows import KEYS, window_of, with_windows

SLIDING_KEYS = (*KEYS, "use_sliding_window", "max_window_layers")
DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768}
_WINDOW, _FIRST_SLIDING = 4096, 28


def qwen2_spec(config: Config) -> TransformerSpec:
    """The spec of a `Qwen2ForCausalLM` config."""
    spec = llama_like(config, "qwen2", DEFAULTS, SLIDING_KEYS)
    return sliding_from(with_layers(spec, bias=[True] * len(spec.layers)), config)


def sliding_from(spec: TransformerSpec, config: Config) -> TransformerSpec:
    """The spec with the windows that Qwen's configs may ask for: from layer max_window_layers on."""
    window = window_of(config, _WINDOW) if config.flag("use_sliding_window", False) else 0
    first = config.count("max_window_layers", _FIRST_SLIDING) if config.values.get("max_window_layers") != 0 else 0
    return with_windows(spec, config, window, lambda layer: window > 0 and layer >= first)
