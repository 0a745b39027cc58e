"""GPT-NeoX and Pythia (Black et al. 2022): layer norm, attention and FFN side by side, a part of each head turns."""

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config
from .rope import RopeKeys, read_rope

_QKV = "gpt_neox.layers.{}.attention.query_key_value"
NAMES = {
    "embedding": "gpt_neox.embed_in",
    "layers.{}.attention_norm": "gpt_neox.layers.{}.input_layernorm",
    "layers.{}.attention.query": _QKV,
    "layers.{}.attention.key": _QKV,
    "layers.{}.attention.value": _QKV,
    "layers.{}.attention.output": "gpt_neox.layers.{}.attention.dense",
    "layers.{}.ffn_norm": "gpt_neox.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "layers.{}.ffn.down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "norm": "gpt_neox.final_layer_norm",
    "untied_head": "embed_out",
}
_ROPE = RopeKeys("rotary_emb_base", partial=True, part="rotary_pct", default_part=0.25)


def gpt_neox_spec(config: Config) -> TransformerSpec:
    """The spec of a `GPTNeoXForCausalLM` config."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    context = config.count("max_position_embeddings", 2048)
    if hidden % heads:
        raise CheckpointError(f"config.json: hidden_size {hidden} does not divide into {heads} heads")
    config.only("head_dim", hidden // heads, hidden // heads)
    bias = config.flag("attention_bias", True)
    ffn = FFNSpec(
        width=config.count("intermediate_size"),
        activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
        gated=False,
        bias=True,
        output_bias=True,
    )
    attention = AttentionSpec(heads, heads, hidden // heads, bias=bias, output_bias=bias)
    layer = LayerSpec(attention, ffn, parallel=config.flag("use_parallel_residual", True))
    spec = TransformerSpec(
        family="gpt_neox",
        vocab_size=config.count("vocab_size"),
        hidden_size=hidden,
        max_context=context,
        norm="layer",
        norm_eps=config.number("layer_norm_eps", 1e-5),
        norm_bias=True,
        tied_head=config.flag("tie_word_embeddings", False),
        rope=read_rope(config, attention.head_size, context, _ROPE),
        layers=(layer,) * config.count("num_hidden_layers", limit=MAX_LAYERS),
    )
    config.check_others()
    return spec
