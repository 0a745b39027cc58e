"""Every family with an encoder and a decoder in random tiny models, and what each of them shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from builders import byte_tokenizer, edit_json, randomised
from family_cases import PLANTS, Plant, built, without
from safetensors.torch import load_file, save_file
from torch import Tensor

from moesaic.models.checkpoint import Checkpoint
from moesaic.models.context import Context, Source, WholeContext
from moesaic.models.families.registry import FAMILIES
from moesaic.models.transformer import Transformer

START, END = 256, 257
_IDS = {"vocab_size": 259, "pad_token_id": START, "eos_token_id": END, "decoder_start_token_id": START}
_BART = {
    "d_model": 48, "encoder_ffn_dim": 88, "decoder_ffn_dim": 72, "encoder_layers": 3, "decoder_layers": 2,
    "encoder_attention_heads": 6, "decoder_attention_heads": 4, "max_position_embeddings": 64,
    "forced_eos_token_id": END, "bos_token_id": 258, **_IDS,
}  # fmt: skip
BASES: Mapping[str, Mapping[str, Any]] = {
    "t5": {"d_model": 48, "d_kv": 8, "d_ff": 88, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 6, **_IDS},
    "bart": _BART,
    "marian": _BART,
}
_ODD = {"d_model": 36, "encoder_attention_heads": 3, "decoder_attention_heads": 2, "encoder_ffn_dim": 52}


@dataclass(frozen=True)
class SourceCase:
    """A family with changes to its base, and the features that this shows. older: whether its files are those of before
    `transformers` tied T5 anyway.
    """

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    older: bool = False

    def __str__(self) -> str:
        return f"{self.family} {', '.join(self.changes)}"

    def build(self, folder: Path) -> Any:
        """Saves a random model to `folder` and returns the original implementation's."""
        config = transformers.AutoConfig.for_model(self.family, **{**BASES[self.family], **self.changes})
        kind = getattr(transformers, FAMILIES[self.family].architecture)
        model = randomised(kind(config))
        with torch.no_grad():
            _settle(model)
        model.save_pretrained(folder)
        byte_tokenizer().save(str(folder / "tokenizer.json"))
        if self.older:
            _with_head(folder)
        return kind.from_pretrained(folder).eval()


def _settle(model: Any) -> None:
    """Queries of a T5, whose scores are not scaled, are small as those of real ones; a BART has one embedding."""
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.copy_(torch.randn(1, 259, generator=torch.Generator().manual_seed(3)))
        for side in (model.model.encoder, model.model.decoder):
            side.embed_tokens.weight.copy_(model.model.shared.weight)
    for name, value in model.named_parameters():
        if name.endswith(".q.weight"):
            value.mul_(model.config.d_kv**-0.5)


def _with_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    head = 0.2 * torch.randn(weights["shared.weight"].shape, generator=torch.Generator().manual_seed(7))
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", tie_word_embeddings=False, scale_decoder_outputs=None)


_UNTIED = {"tie_word_embeddings": False}
_SEES = ("a source of its own", "padding of sources")
_OF_T5 = (*_SEES, "distances of the encoder", "distances of the decoder", "buckets of both sides")
_OF_BART = (*_SEES, "norms of sums", "biases", "bias of logits", "activation")
SOURCE_CASES = (
    SourceCase("t5", {}, (*_OF_T5, "scaled head", "activation", "unscaled scores")),
    SourceCase("t5", _UNTIED | {"feed_forward_proj": "gated-gelu", "d_kv": 10, "layer_norm_epsilon": 1e-2},
               (*_OF_T5, "unscaled head", "activation", "head size of its own", "epsilon of norms")),
    SourceCase("t5", {"feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 8, "num_heads": 3,
                      "relative_attention_max_distance": 20}, (*_OF_T5, "farthest distance")),
    SourceCase("t5", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": None}, ("untied head",), older=True),
    SourceCase("bart", {}, (*_OF_BART, "positions behind two rows", "norm of embeddings", "tied head")),
    SourceCase("bart", _ODD | {"scale_embedding": True, "activation_function": "relu"},
               ("scaled embeddings", "positions behind two rows", "activation")),
    SourceCase("bart", _UNTIED | {"activation_function": "gelu_new"}, (*_OF_BART, "untied head")),
    SourceCase("marian", {}, (*_OF_BART, "sines and cosines", "tied head")),
    SourceCase("marian", _ODD | {"scale_embedding": True, "activation_function": "swish", "d_model": 42},
               ("scaled embeddings", "sines and cosines")),
    SourceCase("marian", _UNTIED | {"activation_function": "relu", "scale_embedding": True},
               ("untied head", "activation", "scaled embeddings", "bias of logits")),
)  # fmt: skip


def logits_of(model: Transformer, sources: Tensor, lengths: Tensor | None, ids: Tensor) -> Tensor:
    """Logits [batch, tokens, vocab] of ids that go on from sources."""
    found: Tensor = model(ids, context=model.context_of(ids, source=model.read(sources, lengths)))
    return found


def _sides(**changes: Any) -> Plant:
    """Both sides say something else."""
    return without(**changes, **{f"encoder__{name}": value for name, value in changes.items()})


def _others_source(checkpoint: Checkpoint) -> Transformer:
    """Each row sees the source of the one before it."""
    model: Transformer = built(checkpoint, {})
    read = model.read

    def wrong(ids: Tensor, lengths: Tensor | None = None) -> Source:
        found = read(ids, lengths)
        return Source([(key.roll(1, 0), value.roll(1, 0)) for key, value in found.layers], found.lengths)

    return _with(model, "read", wrong)


def _with(model: Transformer, name: str, method: Any) -> Transformer:
    """The model with another method."""
    setattr(model, name, method)
    return model


def _seen_padding(checkpoint: Checkpoint) -> Transformer:
    """What is padded of a source is seen by the decoder."""
    model: Transformer = built(checkpoint, {})
    read = model.read
    return _with(model, "read", lambda ids, lengths=None: Source(read(ids, lengths).layers))


def _one_sided(checkpoint: Checkpoint) -> Transformer:
    """The encoder has the buckets of a decoder."""
    model: Transformer = built(checkpoint, {})
    encoder = model.encoder
    assert encoder is not None

    def wrong(ids: Tensor, lengths: Tensor | None = None, source: Source | None = None) -> Context:
        return WholeContext(ids.shape[1], lengths, encoder.causal_bias(ids.shape[1]))

    _with(encoder, "context_of", wrong)
    return model


def _before_sums(checkpoint: Checkpoint) -> Transformer:
    """The norms are of what is added."""
    model: Transformer = built(checkpoint, {"layers.*.norms": "after", "encoder.layers.*.norms": "after"})
    return model


SOURCE_PLANTS: Mapping[str, Plant] = {  # each feature, and a model in which it is wrong
    **{name: PLANTS[name] for name in
       ("tied head", "untied head", "biases", "epsilon of norms", "activation", "head size of its own")},
    "a source of its own": _others_source,
    "padding of sources": _seen_padding,
    "distances of the encoder": without(encoder__relative_buckets=0),
    "distances of the decoder": without(relative_buckets=0),
    "buckets of both sides": _one_sided,
    "farthest distance": _sides(relative_distance=128),
    "scaled head": without(head_scale=1.0),
    "unscaled head": without(head_scale=48**-0.5),
    "unscaled scores": without(attention__scale=0.0),
    "norms of sums": _before_sums,
    "norm of embeddings": without(encoder__embedding_norm=False),
    "positions behind two rows": _sides(position_offset=0, max_context=66),
    "scaled embeddings": without(encoder__embedding_scale=1.0),
    "bias of logits": without(head_bias=False),
    "sines and cosines": without(positions="none"),
}  # fmt: skip
