"""OPT (Zhang et al. 2022): layer norm, learned positions that start at row 2, ReLU, biases everywhere."""

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config

NAMES = {
    "embedding": "model.decoder.embed_tokens",
    "positions": "model.decoder.embed_positions",
    "layers.{}.attention_norm": "model.decoder.layers.{}.self_attn_layer_norm",
    "layers.{}.attention.query": "model.decoder.layers.{}.self_attn.q_proj",
    "layers.{}.attention.key": "model.decoder.layers.{}.self_attn.k_proj",
    "layers.{}.attention.value": "model.decoder.layers.{}.self_attn.v_proj",
    "layers.{}.attention.output": "model.decoder.layers.{}.self_attn.out_proj",
    "layers.{}.ffn_norm": "model.decoder.layers.{}.final_layer_norm",
    "layers.{}.ffn.up": "model.decoder.layers.{}.fc1",
    "layers.{}.ffn.down": "model.decoder.layers.{}.fc2",
    "norm": "model.decoder.final_layer_norm",
    "untied_head": "lm_head",
}
_NORM_EPS = 1e-5
_POSITION_OFFSET = 2


def opt_spec(config: Config) -> TransformerSpec:
    """The spec of an `OPTForCausalLM` config. The post-norm form with projections (350M) is refused."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    config.only("do_layer_norm_before", True, True)
    config.only("word_embed_proj_dim", hidden, hidden)
    config.only("_remove_final_layer_norm", False, False)
    config.only("layer_norm_elementwise_affine", True, True)
    for key in ("layer_norm_eps", "layer_norm_epsilon"):
        config.only(key, _NORM_EPS, _NORM_EPS)
    if hidden % heads:
        raise CheckpointError(f"config.json: hidden_size {hidden} does not divide into {heads} heads")
    bias = config.flag("enable_bias", True)
    attention = AttentionSpec(
        num_heads=heads, num_kv_heads=heads, head_size=hidden // heads, bias=bias, output_bias=bias
    )
    ffn = FFNSpec(
        width=config.count("ffn_dim"),
        activation=config.choice("activation_function", ACTIVATIONS, "relu"),
        gated=False,
        bias=bias,
        output_bias=bias,
    )
    spec = TransformerSpec(
        family="opt",
        vocab_size=config.count("vocab_size"),
        hidden_size=hidden,
        max_context=config.count("max_position_embeddings", 2048),
        norm="layer",
        norm_eps=_NORM_EPS,
        norm_bias=True,
        tied_head=config.flag("tie_word_embeddings", True),
        position_offset=_POSITION_OFFSET,
        layers=(LayerSpec(attention, ffn),) * config.count("num_hidden_layers", limit=MAX_LAYERS),
    )
    config.check_others()
    return spec
