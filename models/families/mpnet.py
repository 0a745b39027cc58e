"""MPNet (Song et al. 2020): RoBERTa without types, and a learned number a head for each bucket of distances."""

from dataclasses import replace

from ..spec import TransformerSpec
from .bert import bert_like
from .config import Config

NAMES = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "distances": "encoder.relative_attention_bias",
    "layers.{}.attention.query": "encoder.layer.{}.attention.attn.q",
    "layers.{}.attention.key": "encoder.layer.{}.attention.attn.k",
    "layers.{}.attention.value": "encoder.layer.{}.attention.attn.v",
    "layers.{}.attention.output": "encoder.layer.{}.attention.attn.o",
    "layers.{}.attention_post_norm": "encoder.layer.{}.attention.LayerNorm",
    "layers.{}.ffn.up": "encoder.layer.{}.intermediate.dense",
    "layers.{}.ffn.down": "encoder.layer.{}.output.dense",
    "layers.{}.ffn_post_norm": "encoder.layer.{}.output.LayerNorm",
}
_BUCKETS = 32
_PADDING = 1  # whatever pad_token_id says


def mpnet_spec(config: Config) -> TransformerSpec:
    """The spec of an `MPNetModel` config."""
    config.only("relative_attention_num_buckets", _BUCKETS, _BUCKETS)
    spec = bert_like(config, "mpnet", padding=_PADDING, token_types=False)
    config.check_others()
    return replace(spec, relative_buckets=_BUCKETS)
