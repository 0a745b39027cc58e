"""T5 (Raffel et al. 2020): encoder and decoder with distances between tokens, unscaled scores, RMS norm, no biases.

T5 1.0 has a plain ReLU and scales what its tied head is given; 1.1 and FLAN-T5 are gated, and have a head of their own.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config

_SELF = {
    "distances": "{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
    "layers.{}.attention_norm": "{side}.block.{}.layer.0.layer_norm",
    "layers.{}.attention.query": "{side}.block.{}.layer.0.SelfAttention.q",
    "layers.{}.attention.key": "{side}.block.{}.layer.0.SelfAttention.k",
    "layers.{}.attention.value": "{side}.block.{}.layer.0.SelfAttention.v",
    "layers.{}.attention.output": "{side}.block.{}.layer.0.SelfAttention.o",
    "layers.{}.ffn_norm": "{side}.block.{}.layer.{last}.layer_norm",
    "layers.{}.ffn.gate": "{side}.block.{}.layer.{last}.DenseReluDense.wi_0",
    "layers.{}.ffn.up": "{side}.block.{}.layer.{last}.DenseReluDense.{up}",
    "layers.{}.ffn.down": "{side}.block.{}.layer.{last}.DenseReluDense.wo",
    "norm": "{side}.final_layer_norm",
}
_CROSS = {
    "layers.{}.cross_norm": "decoder.block.{}.layer.1.layer_norm",
    "layers.{}.cross.query": "decoder.block.{}.layer.1.EncDecAttention.q",
    "layers.{}.cross.key": "decoder.block.{}.layer.1.EncDecAttention.k",
    "layers.{}.cross.value": "decoder.block.{}.layer.1.EncDecAttention.v",
    "layers.{}.cross.output": "decoder.block.{}.layer.1.EncDecAttention.o",
}
UNUSED = r"EncDecAttention\.relative_attention_bias"  # of old files
_GATED = "gated-"
_FEED_FORWARD = {"relu": "relu", f"{_GATED}gelu": "gelu_tanh"}  # whose gelu is the one by tanh, here alone
_FEED_FORWARD |= {f"{gated}{name}": ours for name, ours in ACTIVATIONS.items() for gated in ("", _GATED)
                  if f"{gated}{name}" not in _FEED_FORWARD}  # fmt: skip
_CONTEXT = 512  # of a config that does not say; there is no table of positions that would end


def _names(gated: bool) -> dict[str, str]:
    def of(side: str, last: int) -> dict[str, str]:
        up = "wi_1" if gated else "wi"
        return {ours: theirs.replace("{side}", side).replace("{last}", str(last)).replace("{up}", up)
                for ours, theirs in _SELF.items() if gated or not ours.endswith("gate")}  # fmt: skip

    encoder = {f"encoder.{ours}": theirs for ours, theirs in of("encoder", 1).items()}
    return {"embedding": "shared", "untied_head": "lm_head"} | of("decoder", 2) | _CROSS | encoder


NAMES = _names(gated=True)
_PLAIN_NAMES = _names(gated=False)


def names_of(config: Mapping[str, Any]) -> Mapping[str, str]:
    """Those of a gated FFN, which has two matrices in the place of one, or of a plain one."""
    return NAMES if str(config.get("feed_forward_proj", "")).startswith(_GATED) else _PLAIN_NAMES


def t5_spec(config: Config) -> TransformerSpec:
    """The spec of a `T5ForConditionalGeneration` config."""
    for key, only in (("is_encoder_decoder", True), ("is_decoder", False)):
        config.only(key, only, only)
    buckets, farthest = config.count("relative_attention_num_buckets", 32), _farthest(config)
    hidden, heads, count = config.count("d_model", 512), config.count("num_heads", 8), config.count("num_layers", 6)
    attention = AttentionSpec(heads, heads, config.count("d_kv", 64), scale=1.0)
    proj = config.values.get("feed_forward_proj") or "relu"
    ffn = FFNSpec(
        width=config.count("d_ff", 2048),
        activation=config.choice("feed_forward_proj", _FEED_FORWARD, "relu"),
        gated=str(proj).startswith(_GATED),
    )
    tied = config.flag("tie_word_embeddings", True)
    values: dict[str, Any] = {
        "family": "t5", "vocab_size": config.count("vocab_size", 32128), "hidden_size": hidden,
        "max_context": config.count("n_positions", _CONTEXT), "norm": "rms",
        "norm_eps": config.number("layer_norm_epsilon", 1e-6), "positions": "none", "relative_buckets": buckets,
        "relative_distance": farthest,
    }  # fmt: skip
    layer = LayerSpec(attention, ffn)
    encoder = TransformerSpec(
        **values, tied_head=True, causal=False, layers=(layer,) * _layers(config, "num_layers", count)
    )
    scaled = config.flag("scale_decoder_outputs", tied)
    spec = TransformerSpec(
        **values,
        tied_head=tied,
        head_scale=hidden**-0.5 if scaled else 1.0,
        layers=(LayerSpec(attention, ffn, cross=attention),) * _layers(config, "num_decoder_layers", count),
        encoder=encoder,
    )
    config.check_others()
    return spec


def _layers(config: Config, key: str, default: int) -> int:
    return config.count(key, default, limit=MAX_LAYERS)


def _farthest(config: Config) -> int:
    """The distance from which on all share a bucket; it must be beyond those that have one each."""
    buckets, farthest = (
        config.count(f"relative_attention_{name}", default)
        for name, default in (("num_buckets", 32), ("max_distance", 128))
    )
    if buckets % 2 or buckets < 4 or farthest <= buckets // 2:
        raise CheckpointError(
            f"config.json: relative_attention_num_buckets is {buckets} and relative_attention_max_distance {farthest}; "
            "buckets must be an even number from 4 on, and the distance larger than half of it"
        )
    return farthest
