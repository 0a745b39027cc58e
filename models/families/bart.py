"""BART (Lewis et al. 2020) and Marian (Junczys-Dowmunt et al. 2018): norms of sums and biases on both sides.

BART has learned positions behind two unused rows, and norms of embeddings; Marian has sines and cosines, and neither.
"""

from typing import Any

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config

_SELF = {
    "positions": "model.{side}.embed_positions",
    "embedding_norm": "model.{side}.layernorm_embedding",
    "layers.{}.attention.query": "model.{side}.layers.{}.self_attn.q_proj",
    "layers.{}.attention.key": "model.{side}.layers.{}.self_attn.k_proj",
    "layers.{}.attention.value": "model.{side}.layers.{}.self_attn.v_proj",
    "layers.{}.attention.output": "model.{side}.layers.{}.self_attn.out_proj",
    "layers.{}.attention_post_norm": "model.{side}.layers.{}.self_attn_layer_norm",
    "layers.{}.ffn.up": "model.{side}.layers.{}.fc1",
    "layers.{}.ffn.down": "model.{side}.layers.{}.fc2",
    "layers.{}.ffn_post_norm": "model.{side}.layers.{}.final_layer_norm",
}
_CROSS = {
    "layers.{}.cross.query": "model.decoder.layers.{}.encoder_attn.q_proj",
    "layers.{}.cross.key": "model.decoder.layers.{}.encoder_attn.k_proj",
    "layers.{}.cross.value": "model.decoder.layers.{}.encoder_attn.v_proj",
    "layers.{}.cross.output": "model.decoder.layers.{}.encoder_attn.out_proj",
    "layers.{}.cross_post_norm": "model.decoder.layers.{}.encoder_attn_layer_norm",
}
NAMES = {
    "embedding": "model.shared",
    "untied_head": "lm_head",
    "logit_bias": "final_logits_bias",
    **{ours: theirs.replace("{side}", "decoder") for ours, theirs in _SELF.items()},
    **_CROSS,
    **{f"encoder.{ours}": theirs.replace("{side}", "encoder") for ours, theirs in _SELF.items()},
}
UNUSED = r"coder\.version$"  # of old files
MARIAN_UNUSED = rf"{UNUSED}|coder\.embed_positions\.weight$"  # which have one value


def bart_spec(config: Config) -> TransformerSpec:
    """The spec of a `BartForConditionalGeneration` config."""
    return _spec(config, "bart", offset=2, positions="learned", embedding_norm=True)


def marian_spec(config: Config) -> TransformerSpec:
    """The spec of a `MarianMTModel` config. One vocabulary for each side is refused."""
    config.only("share_encoder_decoder_embeddings", True, True)
    vocab = config.count("vocab_size", 58101)
    config.only("decoder_vocab_size", vocab, vocab)
    config.only("static_position_embeddings", True, True)
    for key in ("normalize_before", "normalize_embedding", "add_final_layer_norm", "add_bias_logits"):
        config.only(key, False, False)
    return _spec(config, "marian", offset=0, positions="sinusoidal", embedding_norm=False)


def _spec(config: Config, family: str, offset: int, positions: str, embedding_norm: bool) -> TransformerSpec:
    for key, only in (("is_encoder_decoder", True), ("is_decoder", False)):
        config.only(key, only, only)
    hidden = config.count("d_model", 1024)
    values: dict[str, Any] = {
        "family": family, "vocab_size": config.count("vocab_size", 50265 if family == "bart" else 58101),
        "hidden_size": hidden, "max_context": config.count("max_position_embeddings", 1024), "norm": "layer",
        "norm_eps": 1e-5, "norm_bias": True, "position_offset": offset, "positions": positions,
        "embedding_norm": embedding_norm, "last_norm": False,
        "embedding_scale": hidden**0.5 if config.flag("scale_embedding", False) else 1.0,
    }  # fmt: skip
    encoder = TransformerSpec(**values, tied_head=True, causal=False, layers=_layers(config, "encoder", hidden))
    spec = TransformerSpec(
        **values,
        tied_head=config.flag("tie_word_embeddings", True),
        head_bias=True,
        layers=_layers(config, "decoder", hidden),
        encoder=encoder,
    )
    config.check_others()
    return spec


def _layers(config: Config, side: str, hidden: int) -> tuple[LayerSpec, ...]:
    heads = config.count(f"{side}_attention_heads", 16)
    if hidden % heads:
        raise CheckpointError(f"config.json: d_model {hidden} does not divide into {heads} {side}_attention_heads")
    attention = AttentionSpec(heads, heads, hidden // heads, bias=True, output_bias=True)
    ffn = FFNSpec(
        config.count(f"{side}_ffn_dim", 4096),
        config.choice("activation_function", ACTIVATIONS, "gelu"),
        gated=False,
        bias=True,
        output_bias=True,
    )
    layer = LayerSpec(attention, ffn, norms="of sums", cross=attention if side == "decoder" else None)
    return (layer,) * config.count(f"{side}_layers", 12, limit=MAX_LAYERS)
