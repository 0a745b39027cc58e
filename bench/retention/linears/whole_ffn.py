"""FFNs that a method computes as a whole, since it chooses among neurons: where they stand, and at which price."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....models.ffn.dense import FFN as DenseFFN
from ....models.linear import TensorModule
from ....models.progress import Progress
from .graded import Graded, GradedForm, sample
from .matrices import AXES, FFN, INT8_BITS, Form, Matrix, Read

_HALVINGS = 11

Neurons = Callable[[Tensor], tuple[Tensor, Tensor]]  # of x: values [tokens, width], and bytes of gate and up [tokens]


class FFNPlace(TensorModule):
    """Stands where a layer has its FFN."""

    def __init__(self, compute: Callable[[Tensor], Read]) -> None:
        super().__init__()
        self.compute = compute
        self.read: list[Tensor] = []  # bytes of the FFN by token

    def forward(self, x: Tensor) -> Tensor:
        y, read = self.compute(x.flatten(0, 1))
        self.read.append(read)
        return y.view(x.shape)


@dataclass
class NeuronsAtPrice(ABC):
    """Inputs are graded at a price, those of down and of attention too, and a method says which neurons are worth their
    bytes at that price.

    aimed_on: tokens of the calibration text that the price is found on.
    """

    graded: Graded
    group: str = field(default="", kw_only=True)
    name: str = field(default="", kw_only=True)
    calibrates: bool = field(default=False, kw_only=True)
    aimed_on: int = field(default=128, kw_only=True)
    dense: Sequence[DenseFFN] = field(default=(), kw_only=True)  # of each layer
    _axis: tuple[str, ...] = field(default=(), kw_only=True)
    _threshold: float = field(default=0.0, kw_only=True)
    _matrices: Sequence[Matrix] = field(default=(), kw_only=True)

    @abstractmethod
    def neurons(self, dense: DenseFFN, wide: Matrix, down: Matrix) -> Neurons:
        """What computes the neurons of a layer at the price."""

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        self.graded.learn(matrices, progress)
        self._matrices = matrices

    def aim(self, axis: str, share: float) -> None:
        """Halves the interval of prices by what is read for calibration text."""
        self._axis = AXES[axis]
        low, high = -40.0, 20.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._read_at(2.0**middle) > share else (low, middle)
        self._set(2.0**high)

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        return self.graded.form(matrix, x, stream)

    def ffn(self, index: int, dense: DenseFFN) -> FFNPlace:
        wide, down = self.pair(index)
        neurons, out = self.neurons(dense, wide, down), self.graded_form(down)

        def compute(x: Tensor) -> Read:
            h, read = neurons(x)
            last = out(h, torch.ones(len(h)))
            y = last.y if down.bias is None else last.y + down.bias
            return Read(y, read + last.bytes)

        return FFNPlace(compute)

    def pair(self, index: int) -> tuple[Matrix, Matrix]:
        """The matrices of a layer's FFN."""
        wide, down = (next(m for m in self._matrices if (m.kind, m.layer) == (kind, index)) for kind in FFN)
        return wide, down

    def graded_form(self, matrix: Matrix) -> GradedForm:
        return GradedForm.of(self.graded, matrix, self.graded.passes(matrix))

    def price(self, into: Tensor, down: Matrix) -> Tensor:
        """What a neuron has to be worth, of the bytes that it would read of gate and up, and its row of down."""
        row = self.graded.levels[1] / INT8_BITS * down.outputs
        return self._threshold**2 * (into + row)

    def ffn_bytes(self, index: int, x: Tensor) -> Tensor:
        """What a layer's FFN reads for these tokens of the calibration text, while a price is looked for."""
        return self.ffn(index, self.dense[index]).compute(x).bytes

    def _set(self, threshold: float) -> None:
        self._threshold = threshold
        self.graded.set_threshold([m for m in self._matrices if m.kind in self._axis], threshold)

    def _read_at(self, threshold: float) -> float:
        """The share of the axis's bytes, on a few tokens of the calibration text."""
        self._set(threshold)
        read = 0.0
        for matrix in (m for m in self._matrices if m.kind in self._axis and m.kind != FFN[1]):
            x, stream = sample(matrix, self.aimed_on)
            into_ffn = matrix.kind == FFN[0]
            spent = self.ffn_bytes(matrix.layer, x) if into_ffn else self.graded_form(matrix)(x, stream).bytes
            read += float(spent.mean())
        return read / sum(m.whole_bytes for m in self._matrices if m.kind in self._axis)


def neuron_values(dense: DenseFFN, wide: Matrix, y: Tensor) -> Tensor:
    """What the neurons give, from the products of gate and up, or of up alone."""
    y = y if wide.bias is None else y + wide.bias
    if dense.gate is None:
        return dense.activation(y)
    gate, up = y.chunk(2, -1)
    return dense.activation(gate) * up
