"""What one token costs a Transformer, from its spec alone: no torch, no weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..kernels.cost import Cost
from .spec import BIT_PLANES, DENSE, GRADED_FORMATS, NORM_REGRESSION, AttentionSpec, FFNSpec, LayerSpec, TransformerSpec

_SCALE_BYTES = 4  # one fp32 scale a row of an int8 weight


@dataclass(frozen=True, slots=True)
class _Matrix:
    outputs: int
    inputs: int
    format: str
    bias: bool = False

    def cost(self, element_bytes: int) -> Cost:
        """The cost of one row of activations, every weight read once."""
        each, per_row = (element_bytes, 0) if self.format == DENSE else (1, _SCALE_BYTES)
        size = self.outputs * (self.inputs * each + per_row + self.bias * element_bytes)
        return Cost(size, 2 * self.outputs * self.inputs)


def governed_bytes(spec: TransformerSpec, element_bytes: int) -> int:
    """Bytes of the weights that tiers govern: of graded linears, where there are some, else of the FFNs."""
    ffns = [matrix for layer in spec.layers for matrix in _ffn(layer.ffn, spec.hidden_size)]
    if not spec.is_graded:
        return sum(matrix.cost(element_bytes).bytes for matrix in ffns)
    every = [*ffns, *_other_matrices(spec)]
    return sum(matrix.cost(element_bytes).bytes for matrix in every if matrix.format in GRADED_FORMATS)


def token_cost(
    spec: TransformerSpec, element_bytes: int, context: int = 0, shares: tuple[float, float] = (1.0, 1.0)
) -> Cost:
    """One new token at batch 1 after `context` tokens: bytes of weights, keys and values read, FLOPs that are active.

    element_bytes is what a dense weight, a key or a value takes in memory. Of the embedding one row is read; the head
    is read whole, tied or not. Counted are the matrices, attention over the context, and the bytes of norms; the few
    FLOPs of norms, activations and rotations are not. shares: of the bytes that tiers govern and of the FFN's
    neurons, what a tier uses; with bit planes every neuron's high bits are multiplied as well.
    """
    if spec.is_graded:
        return _graded_cost(spec, element_bytes, context, shares)
    used = [_ffn_cost(layer.ffn, spec.hidden_size, element_bytes, shares) for layer in spec.layers]
    return _with_the_rest(spec, element_bytes, context, used)


def _graded_cost(spec: TransformerSpec, element_bytes: int, context: int, shares: tuple[float, float]) -> Cost:
    """Fewer bits of any linear are fewer bytes, not fewer FLOPs; a neuron of no bits is a row of down less."""
    whole = [_ffn_cost(layer.ffn, spec.hidden_size, element_bytes, (1.0, 1.0)) for layer in spec.layers]
    cost = _with_the_rest(spec, element_bytes, context, whole)
    down = sum(2 * layer.ffn.width * spec.hidden_size for layer in spec.layers)
    left_out = governed_bytes(spec, element_bytes) * (1 - shares[0])
    return Cost(cost.bytes - round(left_out), cost.flops - round(down * (1 - shares[1])))


def _with_the_rest(spec: TransformerSpec, element_bytes: int, context: int, used: list[Cost]) -> Cost:
    """used: what the FFNs cost."""
    linears = used + [matrix.cost(element_bytes) for matrix in _other_matrices(spec)]
    widths = [layer.attention.num_heads * layer.attention.head_size for layer in spec.layers]
    kv_widths = [2 * layer.attention.num_kv_heads * layer.attention.head_size for layer in spec.layers]
    norms = (sum(_norm_widths(layer, spec.hidden_size) for layer in spec.layers) + spec.hidden_size) * (
        1 + spec.norm_bias
    )
    learned = spec.rope is None and spec.positions == "learned"
    rows = spec.hidden_size * (2 if learned else 1)  # of the embedding, and of learned positions
    read = sum(cost.bytes for cost in linears) + element_bytes * (norms + rows + context * sum(kv_widths))
    return Cost(read, sum(cost.flops for cost in linears) + 4 * (context + 1) * sum(widths))


def _norm_widths(layer: LayerSpec, hidden: int) -> int:
    """The weights of a layer's norms."""
    attention, count = layer.attention, (4 if layer.norms == "both" else 2) + (layer.cross is not None)
    heads = {"none": 0, "heads": 2, "whole": attention.num_heads + attention.num_kv_heads}[attention.qk_norm]
    return count * hidden + heads * attention.head_size


def _other_matrices(spec: TransformerSpec) -> Iterator[_Matrix]:
    for layer in spec.layers:
        yield from _attention(layer.attention, spec.hidden_size)
        if layer.cross is not None:  # whose keys and values are made once, when the source is read
            inner = layer.cross.num_heads * layer.cross.head_size
            yield _Matrix(inner, spec.hidden_size, layer.cross.query, layer.cross.bias)
            yield _Matrix(spec.hidden_size, inner, layer.cross.output, layer.cross.output_bias)
    if spec.continues_text:
        yield _Matrix(spec.vocab_size, spec.hidden_size, spec.embedding if spec.tied_head else spec.head)


def _attention(spec: AttentionSpec, hidden: int) -> Iterator[_Matrix]:
    inner, kv_inner = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
    yield _Matrix(inner, hidden, spec.query, spec.bias)
    yield _Matrix(kv_inner, hidden, spec.key, spec.bias)
    yield _Matrix(kv_inner, hidden, spec.value, spec.bias)
    yield _Matrix(hidden, inner, spec.output, spec.output_bias)


def _ffn_cost(spec: FFNSpec, hidden: int, element_bytes: int, shares: tuple[float, float]) -> Cost:
    costs = [matrix.cost(element_bytes) for matrix in _ffn(spec, hidden)]
    num_bytes, flops = sum(cost.bytes for cost in costs), sum(cost.flops for cost in costs)
    routing = _ROUTING_FLOPS.get(spec.experts.router) if shares != (1.0, 1.0) else None
    return Cost(round(num_bytes * shares[0]), round(flops * shares[1] + (routing(spec, hidden) if routing else 0)))


def _high_bits_flops(spec: FFNSpec, hidden: int) -> float:
    """FLOPs of every neuron's gate and up."""
    return 2 * (1 + spec.gated) * spec.width * hidden


def _router_flops(spec: FFNSpec, hidden: int) -> float:
    return 2 * spec.experts.router_width * (hidden + spec.experts.count(spec.width))


_ROUTING_FLOPS: Mapping[str, Callable[[FFNSpec, int], float]] = {
    NORM_REGRESSION: _router_flops,
    BIT_PLANES: _high_bits_flops,
}


def _ffn(spec: FFNSpec, hidden: int) -> Iterator[_Matrix]:
    if spec.mixture.num_experts:
        yield _Matrix(spec.mixture.num_experts, hidden, DENSE)
    for _ in range(spec.mixture.active or 1):
        yield from _one_ffn(spec, hidden)


def _one_ffn(spec: FFNSpec, hidden: int) -> Iterator[_Matrix]:
    if spec.gated:
        yield _Matrix(spec.width, hidden, spec.gate, spec.bias)
    yield _Matrix(spec.width, hidden, spec.up, spec.bias)
    yield _Matrix(hidden, spec.width, spec.down, spec.output_bias)
