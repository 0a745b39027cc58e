"""SmolLM 3 (Hugging Face 2025): Llama in which every fourth layer has no positions."""

from ..spec import TransformerSpec
from .config import Config
from .llama import llama_like, with_layers
from .rope import RopeKeys
from .windows import KEYS, window_of, with_windows

_DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": True}
_OWN = (*KEYS, "use_sliding_window", "no_rope_layers", "no_rope_layer_interval")
_INTERVAL = 4


def smollm3_spec(config: Config) -> TransformerSpec:
    """The spec of a `SmolLM3ForCausalLM` config."""
    spec = llama_like(config, "smollm3", _DEFAULTS, _OWN, never=(), rope=RopeKeys(default_theta=2e6))
    turned = _turned(config, len(spec.layers))
    spec = with_layers(spec, rotary=["main" if each else "none" for each in turned])
    window = window_of(config, None) if config.flag("use_sliding_window", False) else 0
    return with_windows(spec, config, window, lambda layer: window > 0 and not turned[layer])


def _turned(config: Config, num_layers: int) -> list[bool]:
    """Whether each layer has rotary positions: no_rope_layers says 1 for those that do."""
    interval = config.count("no_rope_layer_interval", _INTERVAL)
    if not config.has("no_rope_layers"):
        return [(layer + 1) % interval != 0 for layer in range(num_layers)]
    flags = config.values["no_rope_layers"]
    if not isinstance(flags, list) or len(flags) != num_layers or any(flag not in (0, 1) for flag in flags):
        raise config.wrong("no_rope_layers", f"it must be a list of {num_layers} numbers, 1 for a layer with positions")
    return [bool(flag) for flag in flags]
