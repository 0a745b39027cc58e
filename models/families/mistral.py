"""Mistral (Jiang et al. 2023): Llama whose queries see a window of the last positions, in every layer."""

from ..spec import TransformerSpec
from .config import Config
from .llama import llama_like, with_layers
from .windows import window_of

_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072}
_WINDOW = 4096


def mistral_spec(config: Config) -> TransformerSpec:
    """The spec of a `MistralForCausalLM` config."""
    spec = llama_like(config, "mistral", _DEFAULTS, ("sliding_window",))
    return with_layers(spec, window=[window_of(config, _WINDOW)] * len(spec.layers))
