"""StarCoder 2 (Lozhkov et al. 2024): layer norm, rotary positions, biases everywhere, and an FFN without a gate."""

from dataclasses import replace

from ..spec import LayerSpec, TransformerSpec
from .config import Config
from .llama import NAMES as LLAMA_NAMES
from .llama import llama_like
from .windows import window_of

NAMES = {ours: theirs for ours, theirs in LLAMA_NAMES.items() if ".ffn." not in ours} | {
    "layers.{}.ffn.up": "model.layers.{}.mlp.c_fc",
    "layers.{}.ffn.down": "model.layers.{}.mlp.c_proj",
}
_DEFAULTS = {
    "num_key_value_heads": 2, "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip


def starcoder2_spec(config: Config) -> TransformerSpec:
    """The spec of a `Starcoder2ForCausalLM` config."""
    spec = llama_like(config, "starcoder2", _DEFAULTS, ("sliding_window", "use_bias", "norm_epsilon"))
    bias, window = config.flag("use_bias", True), window_of(config, None)

    def changed(layer: LayerSpec) -> LayerSpec:
        attention = replace(layer.attention, bias=bias, output_bias=bias, window=window)
        return replace(layer, attention=attention, ffn=replace(layer.ffn, gated=False, bias=bias, output_bias=bias))

    eps, layers = config.number("norm_epsilon", 1e-5), tuple(map(changed, spec.layers))
    return replace(spec, norm="layer", norm_bias=True, norm_eps=eps, layers=layers)
