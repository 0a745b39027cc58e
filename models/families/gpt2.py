"""GPT-2 (Radford et al. 2019): layer norm, learned positions, biases everywhere, weights kept as [inputs, outputs]."""

from dataclasses import replace

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config

_LINEARS = {
    "layers.{}.attention.query": "transformer.h.{}.attn.c_attn",
    "layers.{}.attention.key": "transformer.h.{}.attn.c_attn",
    "layers.{}.attention.value": "transformer.h.{}.attn.c_attn",
    "layers.{}.attention.output": "transformer.h.{}.attn.c_proj",
    "layers.{}.ffn.up": "transformer.h.{}.mlp.c_fc",
    "layers.{}.ffn.down": "transformer.h.{}.mlp.c_proj",
}
TRANSPOSED = frozenset(_LINEARS)
NAMES = _LINEARS | {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "layers.{}.attention_norm": "transformer.h.{}.ln_1",
    "layers.{}.ffn_norm": "transformer.h.{}.ln_2",
    "norm": "transformer.ln_f",
    "untied_head": "lm_head",
}


def gpt2_spec(config: Config) -> TransformerSpec:
    """The spec of a `GPT2LMHeadModel` config."""
    hidden, heads = config.count("n_embd"), config.count("n_head")
    config.only("add_cross_attention", False, False)
    if hidden % heads:
        raise CheckpointError(f"config.json: n_embd {hidden} does not divide into n_head {heads}")
    attention = AttentionSpec(heads, heads, hidden // heads, bias=True, output_bias=True)
    ffn = FFNSpec(
        width=config.count("n_inner", 4 * hidden, limit=1 << 34),
        activation=config.choice("activation_function", ACTIVATIONS, "gelu_new"),
        gated=False,
        bias=True,
        output_bias=True,
    )
    scale = attention.head_size**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    scales = [scale / (i + 1 if by_layer else 1) for i in range(config.count("n_layer", limit=MAX_LAYERS))]
    spec = TransformerSpec(
        family="gpt2",
        vocab_size=config.count("vocab_size"),
        hidden_size=hidden,
        max_context=config.count("n_positions", 1024),
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        norm_bias=True,
        tied_head=config.flag("tie_word_embeddings", True),
        layers=tuple(LayerSpec(replace(attention, scale=each), ffn) for each in scales),
    )
    config.check_others()
    return spec
