"""BERT (Devlin et al. 2019) and RoBERTa: encoders with norms of sums, learned positions, types, biases everywhere."""

from ..errors import CheckpointError
from ..spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec
from .config import ACTIVATIONS, MAX_LAYERS, Config

NAMES = {
    "embedding": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "layers.{}.attention.query": "encoder.layer.{}.attention.self.query",
    "layers.{}.attention.key": "encoder.layer.{}.attention.self.key",
    "layers.{}.attention.value": "encoder.layer.{}.attention.self.value",
    "layers.{}.attention.output": "encoder.layer.{}.attention.output.dense",
    "layers.{}.attention_post_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layers.{}.ffn.up": "encoder.layer.{}.intermediate.dense",
    "layers.{}.ffn.down": "encoder.layer.{}.output.dense",
    "layers.{}.ffn_post_norm": "encoder.layer.{}.output.LayerNorm",
}


def bert_spec(config: Config) -> TransformerSpec:
    """The spec of a `BertModel` config."""
    spec = bert_like(config, "bert")
    config.check_others()
    return spec


def roberta_spec(config: Config) -> TransformerSpec:
    """The spec of a `RobertaModel` config, whose positions begin behind the row of the padding token."""
    spec = bert_like(config, "roberta", padding=_padding(config))
    config.check_others()
    return spec


def xlm_roberta_spec(config: Config) -> TransformerSpec:
    """The spec of an `XLMRobertaModel` config: a RoBERTa with another vocabulary."""
    spec = bert_like(config, "xlm-roberta", padding=_padding(config))
    config.check_others()
    return spec


def bert_like(config: Config, family: str, padding: int = -1, token_types: bool = True) -> TransformerSpec:
    """The spec of a config with BERT's keys. padding: the row of the positions behind which the first one is."""
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    rows, offset = config.count("max_position_embeddings", 512), padding + 1
    for key in ("is_decoder", "add_cross_attention"):
        config.only(key, False, False)
    config.only("position_embedding_type", "absolute", "absolute")
    return encoder_spec(
        family, hidden, heads,
        width=config.count("intermediate_size"),
        activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
        layers=config.count("num_hidden_layers", limit=MAX_LAYERS),
        vocab_size=config.count("vocab_size"),
        rows=rows,
        offset=offset,
        norm_eps=config.number("layer_norm_eps", 1e-12),
        token_types=config.count("type_vocab_size", 2) if token_types else 0,
    )  # fmt: skip


def encoder_spec(
    family: str, hidden: int, heads: int, *, width: int, activation: str, layers: int, vocab_size: int, rows: int,
    offset: int, norm_eps: float, token_types: int = 0, relative_buckets: int = 0,
) -> TransformerSpec:  # fmt: skip
    """An encoder of equal layers; rows: of its positions, of which it leaves out the first `offset`."""
    if hidden % heads:
        raise CheckpointError(f"config.json: hidden size {hidden} does not divide into {heads} heads")
    if rows <= offset:
        raise CheckpointError(
            f"config.json: max_position_embeddings is {rows}, and positions begin at {offset}; it must be larger"
        )
    attention = AttentionSpec(heads, heads, hidden // heads, bias=True, output_bias=True)
    ffn = FFNSpec(width, activation, gated=False, bias=True, output_bias=True)
    return TransformerSpec(
        family=family,
        vocab_size=vocab_size,
        hidden_size=hidden,
        max_context=rows - offset,
        norm="layer",
        norm_eps=norm_eps,
        norm_bias=True,
        tied_head=True,
        position_offset=offset,
        layers=(LayerSpec(attention, ffn, norms="of sums"),) * layers,
        causal=False,
        token_types=token_types,
        relative_buckets=relative_buckets,
        embedding_norm=True,
        last_norm=False,
    )


def _padding(config: Config) -> int:
    """The id of the padding token, which may be 0."""
    return config.count("pad_token_id", 1) if config.values.get("pad_token_id") != 0 else 0
