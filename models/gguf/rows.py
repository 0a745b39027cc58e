"""How the numbers of a tensor of ours differ from those of a file: the order of rows, and what norms have added."""

from torch import Tensor

from ..spec import TransformerSpec
from .architectures import Architecture


def offset_of(ours: str, architecture: Architecture) -> float:
    """What the file's numbers are above ours."""
    return architecture.norm_offset if ours.endswith("norm.weight") else 0.0


def in_pairs(weight: Tensor, ours: str, architecture: Architecture, spec: TransformerSpec) -> Tensor:
    """Rows of query and key head by head: first halves, then second halves -> pairs, as a file has them."""
    heads = _heads(ours, architecture, spec)
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape) if heads else weight


def in_halves(weight: Tensor, ours: str, architecture: Architecture, spec: TransformerSpec) -> Tensor:
    """The other way."""
    heads = _heads(ours, architecture, spec)
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape) if heads else weight


def _heads(ours: str, architecture: Architecture, spec: TransformerSpec) -> int:
    """Of a tensor whose rows a file has in pairs, else 0."""
    attention = spec.layers[0].attention
    linear = ours.rpartition(".")[0].rpartition(".")[2]
    return (
        {"query": attention.num_heads, "key": attention.num_kv_heads}.get(linear, 0) if architecture.interleaved else 0
    )
