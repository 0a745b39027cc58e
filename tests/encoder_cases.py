"""Every family of encoders in random tiny models, and what each of them shows."""

from collections.abc import Mapping
from typing import Any

from family_cases import PLANTS, Case, Plant, built, without

from moesaic.models.checkpoint import Checkpoint, read_tensors
from moesaic.models.transformer import Transformer

_ODD: dict[str, Any] = {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 52}
_BEHIND = "positions behind the padding"
_EVERY = ("sees what stands behind", "norms of sums", "norm of embeddings", "biases", "learned positions")
ENCODER_CASES = (
    Case("bert", {}, (*_EVERY, "token types")),
    Case("bert", _ODD | {"hidden_act": "gelu_new", "type_vocab_size": 1}, ("activation", "norms of sums")),
    Case("bert", {"layer_norm_eps": 1e-2, "type_vocab_size": 3}, ("epsilon of norms", "token types")),
    Case("roberta", {}, (*_EVERY, "token types", _BEHIND)),
    Case("roberta", _ODD | {"pad_token_id": 2, "hidden_act": "relu"}, ("activation", _BEHIND)),
    Case("roberta", {"layer_norm_eps": 1e-2, "type_vocab_size": 1}, ("epsilon of norms", _BEHIND)),
    Case("xlm-roberta", {}, (*_EVERY, _BEHIND)),
    Case("xlm-roberta", _ODD | {"pad_token_id": 0}, (_BEHIND, "norms of sums")),
    Case("xlm-roberta", {"hidden_act": "silu", "layer_norm_eps": 1e-2}, ("epsilon of norms",)),
    Case("distilbert", {}, _EVERY),
    Case("distilbert", {"dim": 36, "n_heads": 3, "hidden_dim": 52, "activation": "relu"}, ("activation", "biases")),
    Case("distilbert", {"sinusoidal_pos_embds": True, "n_layers": 1}, ("learned positions",)),
    Case("mpnet", {}, (*_EVERY, "distances between tokens", _BEHIND)),
    Case("mpnet", _ODD | {"hidden_act": "gelu_new"}, ("distances between tokens", "activation")),
    Case(
        "mpnet", {"layer_norm_eps": 1e-2, "num_attention_heads": 12}, ("epsilon of norms", "distances between tokens")
    ),
)


def _other_type(checkpoint: Checkpoint) -> Transformer:
    """The second type is added."""
    tensors = dict(read_tensors(checkpoint))
    model: Transformer = built(
        checkpoint, {}, tensors | {"token_types.weight": tensors["token_types.weight"].roll(-1, 0)}
    )
    return model


ENCODER_PLANTS: Mapping[str, Plant] = {  # each feature, and a model in which it is wrong
    **{name: PLANTS[name] for name in ("biases", "learned positions", "activation", "epsilon of norms")},
    "sees what stands behind": without(causal=True),
    "norms of sums": without(norms="after"),
    "norm of embeddings": without(embedding_norm=False),
    "token types": _other_type,
    _BEHIND: without(position_offset=0, max_context=64),
    "distances between tokens": without(relative_buckets=0),
}
