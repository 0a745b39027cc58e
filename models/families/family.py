"""What a family is: how one kind of Hugging Face checkpoint becomes ours."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..spec import TransformerSpec
from .config import Config

_WHOLE = r"(?:experts\.\d+\.)?(?:gate|up|down)|choice"  # what a dense FFN is made of, and a mixture
# All that they lack, and what graded linears add to int8 ones.
_SPARSE_TENSOR = re.compile(rf"layers\.\d+\.ffn\.(?!(?:{_WHOLE})\.).+|.+\.(?:worth|centre)|thresholds")
_LAYER_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Family:
    """How one kind of Hugging Face checkpoint becomes ours.

    names: our module path -> theirs, with {} for the layer's number; ours that share a name lie in one tensor, the rows
    of one after those of another in this order, or by_head: for each head anew. transposed: our paths whose weights
    their files have as [inputs, outputs]. unused: tensors that some files hold and no forward pass reads. base: the
    first part of their names, which files of the bare model leave out. width_key, bias_key: where config.json has the
    FFN's width, and the flag for its biases; activation_key: the name of its activation.
    heads: other architectures whose files hold the same model with a head on top, which is left aside.
    names_of: the names of one config's files, where those differ within the family; names has them all then.
    said_by_tie: a key that `tie_word_embeddings` stands for where it is missing. embeddings: tensors that may hold the
    embedding again. headless: the architecture of files without the head, where it is not the usual one.
    """

    architecture: str
    spec: Callable[[Config], TransformerSpec]
    names: Mapping[str, str]
    unused: str = r"$^"
    width_key: str = "intermediate_size"
    bias_key: str | None = None
    activation_key: str = "hidden_act"
    base: str = "model"
    transposed: Collection[str] = ()
    by_head: bool = False
    heads: Collection[str] = ()
    names_of: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    said_by_tie: str = ""
    embeddings: str = r"$^"
    headless: str = ""

    @property
    def reads_sources(self) -> bool:
        """Whether its models have an encoder, from whose source the decoder goes on."""
        return any(ours.startswith("encoder.") for ours in self.names)

    @property
    def bare(self) -> str | None:
        """The architecture of a decoder's files without its head; None for what has none to lose."""
        heads = ("ForCausalLM", "LMHeadModel")
        found = next((each for each in heads if self.architecture.endswith(each)), None)
        return None if found is None else self.headless or f"{self.architecture.removesuffix(found)}Model"

    @property
    def has_head(self) -> bool:
        """Whether its models can have a head that is not their embedding."""
        return "untied_head" in self.names

    def of(self, config: Mapping[str, Any]) -> "Family":
        """The family as files of this config have it."""
        return self if self.names_of is None else replace(self, names=self.names_of(config))

    def untied(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config of the same model with a head of its own."""
        said = {self.said_by_tie: config.get("tie_word_embeddings") is not False} if self.said_by_tie else {}
        return {**said, **config, "tie_word_embeddings": False}

    def their_name(self, ours: str) -> str:
        """`layers.3.ffn.up.weight` -> `model.layers.3.mlp.up_proj.weight`. A sparse FFN's own are ours alone."""
        if is_sparse_tensor(ours):
            return ours
        if ours in self.names:  # a tensor of the whole model, that is no module's
            return self.names[ours]
        template, numbers, leaf = _taken_apart(ours)
        return f"{self.names[template].format(*numbers)}.{leaf}"

    def together(self, ours: str) -> tuple[str, ...]:
        """The names of ours that lie in one tensor with this one, itself among them, in order."""
        if is_sparse_tensor(ours) or ours in self.names:
            return (ours,)
        template, numbers, leaf = _taken_apart(ours)
        theirs = self.names[template]
        return tuple(f"{each.format(*numbers)}.{leaf}" for each, name in self.names.items() if name == theirs)

    def turns(self, ours: str) -> bool:
        """Whether their files have the transpose of this weight."""
        return _taken_apart(ours)[0] in self.transposed

    def is_unused(self, theirs: str) -> bool:
        """Whether a tensor of this name may be left aside."""
        return re.search(self.unused, theirs) is not None

    def is_embedding_again(self, theirs: str) -> bool:
        """Whether a tensor of this name must hold the embedding, where it is there."""
        return re.search(self.embeddings, theirs) is not None


def is_sparse_tensor(name: str) -> bool:
    """Whether tiers need it and no dense model: it is kept apart from the weights, where other loaders do not look."""
    return _SPARSE_TENSOR.fullmatch(name) is not None


def _taken_apart(ours: str) -> tuple[str, list[str], str]:
    """Path with {} for numbers, the numbers, and what of the module it is."""
    module, _, leaf = ours.rpartition(".")
    return _LAYER_NUMBER.sub("{}", module), _LAYER_NUMBER.findall(module), leaf
