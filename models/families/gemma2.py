"""Gemma 2 (Gemma Team 2024): norms before and after each block, soft caps, and a window in every other layer."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ..spec import TransformerSpec
from .config import ACTIVATIONS, Config
from .gemma import DEFAULTS, scaled
from .llama import NAMES as LLAMA_NAMES
from .llama import llama_like, with_layers
from .windows import KEYS, window_of, with_windows

NAMES = LLAMA_NAMES | {
    "layers.{}.attention_post_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn_norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers.{}.ffn_post_norm": "model.layers.{}.post_feedforward_layernorm",
}
_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_OWN = (*KEYS, *_CAPS, "hidden_activation", "hidden_act", "query_pre_attn_scalar")
_ACTIVATION = "gelu_pytorch_tanh"
_WINDOW, _QUERY_SCALAR = 4096, 256


def gemma2_spec(config: Config) -> TransformerSpec:
    """The spec of a `Gemma2ForCausalLM` config."""
    return both_norms(config, "gemma2", lambda layer: layer % 2 == 0, _CAPS)


def both_norms(
    config: Config, family: str, slides: Callable[[int], bool], caps: Mapping[str, float], own: Collection[str] = ()
) -> TransformerSpec:
    """What Gemma 2 and 3 share. caps: those of scores and of logits where config.json does not speak of them."""
    config.choice("hidden_activation", ACTIVATIONS, _ACTIVATION)
    activation = config.values.get("hidden_activation") or _ACTIVATION
    defaults: dict[str, Any] = {**DEFAULTS, "num_key_value_heads": 4, "hidden_act": activation}
    spec = scaled(llama_like(config, family, defaults, {*_OWN, *own}, never=("mlp_bias",)))
    layers = tuple(replace(layer, norms="both") for layer in spec.layers)
    scale, count = float(config.number("query_pre_attn_scalar", _QUERY_SCALAR)) ** -0.5, len(layers)
    cap, logit_cap = (_cap(config, key, caps.get(key)) for key in _CAPS)
    spec = with_layers(
        replace(spec, layers=layers, logit_soft_cap=logit_cap), scale=[scale] * count, soft_cap=[cap] * count
    )
    return with_windows(spec, config, window_of(config, _WINDOW), slides)


def _cap(config: Config, key: str, default: float | None) -> float:
    """Absent is the default; null stands for none."""
    if key in config.values or default is None:
        return config.number(key) if config.has(key) else 0.0
    return default
