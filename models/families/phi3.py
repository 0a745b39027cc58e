"""Phi 3 and 4 (Abdin et al. 2024): Llama whose files have query, key and value, and gate and up, as one tensor each."""

from ..spec import TransformerSpec
from .config import Config
from .llama import NAMES as LLAMA_NAMES
from .llama import llama_like, with_layers
from .rope import RopeKeys
from .windows import window_of

_QKV, _GATE_UP = "model.layers.{}.self_attn.qkv_proj", "model.layers.{}.mlp.gate_up_proj"
NAMES = LLAMA_NAMES | {
    "layers.{}.attention.query": _QKV,
    "layers.{}.attention.key": _QKV,
    "layers.{}.attention.value": _QKV,
    "layers.{}.ffn.gate": _GATE_UP,
    "layers.{}.ffn.up": _GATE_UP,
}
_DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
_OWN = ("sliding_window", "original_max_position_embeddings")  # the second is longrope's, which is refused by name


def phi3_spec(config: Config) -> TransformerSpec:
    """The spec of a `Phi3ForCausalLM` config. The long forms, whose positions are `longrope`, are refused."""
    keys = RopeKeys(partial=True, scalings=("default",))
    spec = llama_like(config, "phi3", _DEFAULTS, _OWN, rope=keys)
    return with_layers(spec, window=[window_of(config, None)] * len(spec.layers))
