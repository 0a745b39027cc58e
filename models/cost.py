"""What one token costs a Transformer, from its spec alone: no torch, no weights."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..kernels.cost import Cost
from .spec import DENSE, AttentionSpec, FFNSpec, TransformerSpec

_SCALE_BYTES = 4  # one fp32 scale a row of an int8 weight


@dataclass(frozen=True, slots=True)
class _Matrix:
    outputs: int
    inputs: int
    format: str
    bias: bool = False

    def cost(self, element_bytes: int) -> Cost:
        """One row of activations through it, every weight read once."""
        each, per_row = (element_bytes, 0) if self.format == DENSE else (1, _SCALE_BYTES)
        size = self.outputs * (self.inputs * each + per_row + self.bias * element_bytes)
        return Cost(size, 2 * self.outputs * self.inputs)


def token_cost(spec: TransformerSpec, element_bytes: int, context: int = 0) -> Cost:
    """One new token at batch 1 after `context` tokens: bytes of weights, keys and values read, FLOPs that are active.

    element_bytes is what a dense weight, a key or a value takes in memory. Of the embedding one row is read; the head
    is read whole, tied or not. Counted are the matrices, attention over the context, and the bytes of norms; the few
    FLOPs of norms, activations and rotations are not.
    """
    linears = [matrix.cost(element_bytes) for matrix in _matrices(spec)]
    widths = [layer.attention.num_heads * layer.attention.head_size for layer in spec.layers]
    kv_widths = [2 * layer.attention.num_kv_heads * layer.attention.head_size for layer in spec.layers]
    norms = (2 * len(spec.layers) + 1) * spec.hidden_size * (1 + spec.norm_bias)
    rows = spec.hidden_size * (1 if spec.rope else 2)  # of the embedding, and of learned positions
    read = sum(cost.bytes for cost in linears) + element_bytes * (norms + rows + context * sum(kv_widths))
    return Cost(read, sum(cost.flops for cost in linears) + 4 * (context + 1) * sum(widths))


def _matrices(spec: TransformerSpec) -> Iterator[_Matrix]:
    for layer in spec.layers:
        yield from _attention(layer.attention, spec.hidden_size)
        yield from _ffn(layer.ffn, spec.hidden_size)
    yield _Matrix(spec.vocab_size, spec.hidden_size, spec.embedding if spec.tied_head else spec.head)


def _attention(spec: AttentionSpec, hidden: int) -> Iterator[_Matrix]:
    inner, kv_inner = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
    yield _Matrix(inner, hidden, spec.query, spec.bias)
    yield _Matrix(kv_inner, hidden, spec.key, spec.bias)
    yield _Matrix(kv_inner, hidden, spec.value, spec.bias)
    yield _Matrix(hidden, inner, spec.output, spec.output_bias)


def _ffn(spec: FFNSpec, hidden: int) -> Iterator[_Matrix]:
    if spec.gated:
        yield _Matrix(spec.width, hidden, spec.gate, spec.bias)
    yield _Matrix(spec.width, hidden, spec.up, spec.bias)
    yield _Matrix(hidden, spec.width, spec.down, spec.output_bias)
