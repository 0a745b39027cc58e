"""The linears of a model as matrices that can be read in part: int8 rows, stacked where they share an input.

Products are made in bf16 of integers, which bf16 holds exactly: inputs are rounded to 8 bits of mantissa, weights are
not, and a CPU with bf16 dot products is three times as fast as in fp32. What all is compared with does the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ....compress.quantize.int8 import quantize_rows
from ....models.compute import Compute
from ....models.linear import TensorModule, dense_weight
from ....models.transformer import Layer, Transformer

ATTENTION_IN, ATTENTION_OUT, FFN_IN, FFN_OUT, HEAD = "attention in", "attention out", "ffn in", "ffn out", "head"
LINEARS = (ATTENTION_IN, ATTENTION_OUT, FFN_IN, FFN_OUT)
FFN = (FFN_IN, FFN_OUT)
LINEARS_AXIS, FFN_AXIS, HEAD_AXIS = "linears", "ffn", "head"
AXES = {LINEARS_AXIS: LINEARS, FFN_AXIS: FFN, HEAD_AXIS: (HEAD,)}
INT8_BITS, SCALE_BYTES = 8, 4


class Read(NamedTuple):
    """y [tokens, outputs], before a bias; bytes [tokens] of the weights that each token reads."""

    y: Tensor
    bytes: Tensor


Form = Callable[[Tensor, Tensor], Read]  # of inputs [tokens, inputs], and the rms of the stream beside each, [tokens]


@dataclass
class Matrix:
    """scale[n] q[n, k]: `levels` are the integers q in bf16 [outputs, inputs], scale [outputs]; original: in bf16.

    inputs, stream: what the int8 model gives it on calibration text, [tokens, inputs] in bf16, and the rms of the
    stream beside each token. fisher: what a unit of error of an output costs in nats, twice, fp32 [outputs].
    """

    kind: str
    layer: int
    original: Tensor
    levels: Tensor
    scale: Tensor
    bias: Tensor | None
    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    stream: Tensor = field(default_factory=lambda: torch.empty(0))
    fisher: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, kind: str, layer: int, linears: Sequence[TensorModule]) -> "Matrix":
        weight = torch.cat([dense_weight(each) for each in linears])
        levels, scale = quantize_rows(weight)
        biases = [bias.float() for each in linears if isinstance(bias := getattr(each, "bias", None), Tensor)]
        return cls(kind, layer, weight.bfloat16(), levels.bfloat16(), scale, torch.cat(biases) if biases else None)

    @property
    def outputs(self) -> int:
        return len(self.levels)

    @property
    def num_inputs(self) -> int:
        return self.levels.shape[1]

    @property
    def scale_bytes(self) -> int:
        return SCALE_BYTES * self.outputs

    @property
    def whole_bytes(self) -> int:
        """Those of int8, scales included: what shares are shares of."""
        return self.levels.numel() + self.scale_bytes

    def product(self, x: Tensor, levels: Tensor) -> Tensor:
        """scale[n] sum_k levels[n, k] x[k] in fp32, levels in bf16."""
        return functional.linear(x.bfloat16(), levels).float() * self.scale

    def whole(self, x: Tensor, stream: Tensor) -> Read:
        """The form that reads all of int8."""
        return Read(self.product(x, self.levels), torch.full((len(x),), float(self.whole_bytes)))

    def high_bits(self, bits: int) -> Tensor:
        """floor(q / 2^(8 - bits)) 2^(8 - bits) + (2^(8 - bits) - 1) / 2: the middle of what these bits leave open, in
        bf16, exactly. None of them say 0, all of them say q.
        """
        if bits == 0:
            return torch.zeros_like(self.levels)
        step = 2 ** (INT8_BITS - bits)
        middle: Tensor = torch.floor(self.levels / step) * step + (step - 1) / 2
        return middle


class Place(TensorModule):
    """Stands where a model has a linear, or several that are packed; computes by a form that is made on its first call
    by `make`, of what that call brings.
    """

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.stream = torch.empty(0)  # of the batch to come
        self.make: Callable[[Matrix, Tensor, Tensor], Form] | None = None
        self.form: Form | None = None
        self.seen: Callable[[Tensor, Tensor], None] | None = None
        self.read: list[Tensor] = []

    def set(self, make: Callable[[Matrix, Tensor, Tensor], Form] | None) -> None:
        self.make, self.form, self.read = make, None, []

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        flat = x.flatten(0, -2)
        if self.seen is not None:
            self.seen(flat, self.stream)
        if self.form is None:
            self.form = self.matrix.whole if self.make is None else self.make(self.matrix, flat, self.stream)
        y, read = self.form(flat, self.stream)
        self.read.append(read)
        if self.matrix.bias is not None:
            y = y + self.matrix.bias
        return y.view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class LayerPlaces:
    """The four places of a layer."""

    attention: tuple[Place, Place]
    ffn: tuple[Place, Place]

    def __iter__(self) -> Iterator[Place]:
        return iter((*self.attention, *self.ffn))


def place_(model: Transformer) -> tuple[list[LayerPlaces], Place]:
    """Takes the linears out of a model, and the head's weights, which the embedding keeps in int8 where they are tied;
    gives what stands in their place.
    """
    places = [_places(i, layer) for i, layer in enumerate(model.layers) if isinstance(layer, Layer)]
    table: TensorModule = model.embedding if model.untied_head is None else model.untied_head
    head = Place(Matrix.of(HEAD, len(places), [table]))
    if model.untied_head is None:
        matrix = head.matrix
        model.embedding.weight = torch.nn.Parameter(matrix.levels.float() * matrix.scale.unsqueeze(1), False)
    return places, head


def _places(index: int, layer: Layer) -> LayerPlaces:
    attention, ffn = layer.attention, layer.ffn
    into = [attention.query, attention.key, attention.value]
    wide = [ffn.up] if ffn.gate is None else [ffn.gate, ffn.up]
    places = [
        Place(Matrix.of(kind, index, linears))
        for kind, linears in zip(LINEARS, (into, [attention.output], wide, [ffn.down]), strict=True)
    ]
    attention.packed, attention._modules["output"] = (places[0],), places[1]
    if ffn.gate is None:
        ffn._modules["up"] = places[2]
    else:
        ffn.packed = (places[2],)
    ffn._modules["down"] = places[3]
    for each in (*into, *(wide if ffn.gate is not None else [])):
        each.weight = torch.nn.Parameter(torch.empty(0), False)
    return LayerPlaces((places[0], places[1]), (places[2], places[3]))
