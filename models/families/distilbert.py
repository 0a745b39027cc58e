"""DistilBERT (Sanh et al. 2019): BERT without types, under names of its own."""

from ..spec import TransformerSpec
from .bert import encoder_spec
from .config import ACTIVATIONS, MAX_LAYERS, Config

NAMES = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "layers.{}.attention.query": "transformer.layer.{}.attention.q_lin",
    "layers.{}.attention.key": "transformer.layer.{}.attention.k_lin",
    "layers.{}.attention.value": "transformer.layer.{}.attention.v_lin",
    "layers.{}.attention.output": "transformer.layer.{}.attention.out_lin",
    "layers.{}.attention_post_norm": "transformer.layer.{}.sa_layer_norm",
    "layers.{}.ffn.up": "transformer.layer.{}.ffn.lin1",
    "layers.{}.ffn.down": "transformer.layer.{}.ffn.lin2",
    "layers.{}.ffn_post_norm": "transformer.layer.{}.output_layer_norm",
}


def distilbert_spec(config: Config) -> TransformerSpec:
    """The spec of a `DistilBertModel` config."""
    spec = encoder_spec(
        "distilbert", config.count("dim"), config.count("n_heads"),
        width=config.count("hidden_dim"),
        activation=config.choice("activation", ACTIVATIONS, "gelu"),
        layers=config.count("n_layers", limit=MAX_LAYERS),
        vocab_size=config.count("vocab_size"),
        rows=config.count("max_position_embeddings", 512),
        offset=0,
        norm_eps=1e-12,
    )  # fmt: skip
    config.check_others()
    return spec
