"""A model in the words of a file: the same function, as llama.cpp would compute it, or a refusal that says why not."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..spec import TransformerSpec
from .architectures import Architecture
from .spec_values import has_scaled_head

_HEAD, _TYPES = "untied_head.weight", "token_types.weight"


def sayable(spec: TransformerSpec, architecture: Architecture) -> TransformerSpec:
    """The same function, as far as the context goes, in the words of a file."""
    heads = spec.layers[0].attention
    if architecture.name == "olmoe" and heads.num_kv_heads != heads.num_heads:
        raise CheckpointError(
            f"llama.cpp opens {named(architecture)} with a key head for each query head alone, and this model has "
            f"{heads.num_kv_heads} for {heads.num_heads}; export --to dense"
        )
    if spec.encoder and len(spec.layers) > len(spec.encoder.layers):
        raise CheckpointError(
            f"llama.cpp opens {named(architecture)} with no more layers in the decoder than in the encoder, and this "
            f"model has {len(spec.layers)} and {len(spec.encoder.layers)}; export --to dense"
        )
    if spec.rope and spec.rope.scaling == "llama3" and not architecture.factors:
        raise CheckpointError(f"{named(architecture)} has no positions of the kind llama3; export --to dense")
    if architecture.head == "never" and not spec.tied_head:
        raise CheckpointError(
            f"{named(architecture)} has no head of its own, and this model has one; export --to dense"
        )
    layers = tuple(
        replace(layer, attention=replace(layer.attention, window=0))
        if layer.attention.window >= spec.max_context
        else layer
        for layer in spec.layers
    )
    if not architecture.sliding and any(layer.attention.window for layer in layers):
        window = max(layer.attention.window for layer in layers)
        raise CheckpointError(
            f"llama.cpp computes no window for {named(architecture)}, and this model has one of {window:,}; set "
            f"max_position_embeddings to {window:,} in its config.json, or export --to dense"
        )
    layers = spec.layers if architecture.sliding else layers
    said = replace(spec, layers=layers, tied_head=spec.tied_head and architecture.head != "must")
    return said if spec.causal else replace(said, position_offset=0, token_types=spec.token_types or 1)


def head_shape(said: TransformerSpec) -> dict[str, tuple[int, ...]]:
    """The head that a file needs where we have none, as our embedding is scaled."""
    return {_HEAD: (said.vocab_size, said.hidden_size)} if has_scaled_head(said) else {}


def check_biases(shapes: Mapping[str, Any], architecture: Architecture) -> None:
    """Refuses biases that llama.cpp would leave out, and the lack of those that it needs."""
    linears = [name.split(".")[-2:] for name in shapes if ".attention." in name or ".ffn." in name]
    there = {linear for linear, leaf in linears if leaf == "bias"}
    if more := sorted(there - {*architecture.biases}):
        raise CheckpointError(f"{named(architecture)} has no bias of {more[0]}, and this model has; export --to dense")
    known = {linear for linear, _ in linears if linear in architecture.biases}
    if architecture.biased and (less := sorted(known - there)):
        raise CheckpointError(
            f"{named(architecture)} needs a bias of {less[0]}, and this model has none; export --to dense"
        )


def named(architecture: Architecture) -> str:
    """What a refusal calls it."""
    return f"the architecture {architecture.name} of GGUF"


def said_tensors(
    tensors: Iterable[tuple[str, Tensor]], shapes: Mapping[str, tuple[int, ...]], spec: TransformerSpec
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file of these shapes: positions without the rows that nothing stands at, and what it must have.

    That is the embedding a second time where it is the head, scaled as that is, and types that add nothing.
    """
    names = set()
    for ours, tensor in tensors:
        names.add(ours)
        yield ours, tensor[spec.position_offset :] if ours == "positions.weight" else tensor
        if ours == "embedding.weight":
            embedding = tensor
    if _HEAD in shapes and _HEAD not in names:
        yield _HEAD, embedding.float() * spec.head_scale if has_scaled_head(spec) else embedding
    if _TYPES in shapes and _TYPES not in names:
        yield _TYPES, torch.zeros(shapes[_TYPES])
