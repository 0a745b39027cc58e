"""Ways to spend bytes that look at whole neurons: bit planes as they were, and both sides beside graded inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....compress.moefy.importance import neuron_importance
from ....models.checkpoint import Checkpoint, load_transformer
from ....models.ffn.dense import FFN as DenseFFN
from ....models.linear import TensorModule
from ....models.progress import Progress
from ....models.transformer import Layer
from ..layer import LabLayer, mean_output
from ..method import CalibrationData, NotHere
from ..method import Form as FFNForm
from ..planes import Planes
from .graded import Graded, GradedForm, column_errors, mean_fisher, sample
from .matrices import AXES, FFN, INT8_BITS, LINEARS, LINEARS_AXIS, Form, Matrix, Read

_TOKENS, _SAMPLE, _HALVINGS = 2048, 128, 11


class FFNPlace(TensorModule):
    """Stands where a layer has its FFN."""

    def __init__(self, compute: Callable[[Tensor], Read]) -> None:
        super().__init__()
        self._compute = compute
        self.read: list[Tensor] = []  # bytes of the FFN by token

    def forward(self, x: Tensor) -> Tensor:
        y, read = self._compute(x.flatten(0, 1))
        self.read.append(read)
        return y.view(x.shape)


@dataclass
class WholePlanes:
    """Neurons by bit planes as recipes had them, and attention whole in int8."""

    planes: Planes
    checkpoint: Checkpoint
    windows: Tensor
    seed: int
    group: str = "bit planes"
    name: str = ""
    calibrates: bool = False
    _layers: list[LabLayer] = field(default_factory=list)
    _given: list[Tensor] = field(default_factory=list)
    _share: float = 0.0
    _others: int = 0
    _whole: int = 0

    def __post_init__(self) -> None:
        self.name = self.name or f"neurons by planes, {self.planes.name}"

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        model = load_transformer(self.checkpoint, torch.device("cpu"))
        self._layers = [LabLayer.of(layer.ffn) for layer in model.layers if isinstance(layer, Layer)]
        importance = neuron_importance(model, self.windows, self.seed, lambda n, of: progress("importance", n, of))
        self._given = [matrix.inputs.float() for matrix in matrices if matrix.kind == FFN[0]]
        self.planes.learn(CalibrationData(self._layers, self._given, importance, [], self.seed), progress)
        self._others = sum(m.whole_bytes for m in matrices if m.kind in LINEARS and m.kind not in FFN)
        self._whole = sum(layer.whole_bytes for layer in self._layers)

    def aim(self, axis: str, share: float) -> None:
        others = self._others if axis == LINEARS_AXIS else 0
        self._share = (share * (others + self._whole) - others) / self._whole
        if self._share <= 0:
            raise NotHere(f"attention alone is more than {share:.2f} of the bytes")
        self.planes.form(0, self._given[0], self._share)  # raises NotHere

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        return matrix.whole

    def ffn(self, index: int, dense: DenseFFN) -> FFNPlace:
        layer, given = self._layers[index], self._given[index]
        form = self.planes.form(index, given, self._share)
        constant = _constant(layer, given, form) if self.planes.compensate else None

        def compute(x: Tensor) -> Read:
            used = form(x)
            return Read(used.y if constant is None else used.y + constant, used.bytes * layer.whole_bytes)

        return FFNPlace(compute)


def _constant(layer: LabLayer, given: Tensor, form: FFNForm) -> Tensor:
    return mean_output(layer, given, torch.cat([form(part).y for part in torch.split(given, _TOKENS)]))


@dataclass
class BothSides:
    """Inputs graded at a higher price first, which foresees the neurons; those whose foreseen value is worth the bytes
    of the rest and of their row of down get the inputs at the price itself. Down is graded, attention too.

    ratio: of the first price to the other. cap: the most bits of the first look.
    """

    graded: Graded
    ratio: float = 4.0
    cap: int = INT8_BITS
    group: str = "both sides"
    name: str = ""
    calibrates: bool = False
    dense: Sequence[DenseFFN] = ()  # of each layer
    _axis: tuple[str, ...] = ()
    _threshold: float = 0.0
    _matrices: Sequence[Matrix] = ()

    def __post_init__(self) -> None:
        most = f", {self.cap} bits at most" if self.cap < INT8_BITS else ""
        self.name = self.name or f"both sides, {self.graded.name}, first at {self.ratio:g} times the price{most}"

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
        wide, down = (next(m for m in self._matrices if (m.kind, m.layer) == (kind, index)) for kind in FFN)
        looked, into, out = self._first(wide), self._form(wide), self._form(down)

        def compute(x: Tensor) -> Read:
            h, read = self._neurons(dense, wide, down, looked, into, x)
            last = out(h, torch.ones(len(h)))
            y = last.y if down.bias is None else last.y + down.bias
            return Read(y, read + last.bytes)

        return FFNPlace(compute)

    def _neurons(
        self, dense: DenseFFN, wide: Matrix, down: Matrix, looked: GradedForm, into: GradedForm, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Their values [tokens, width], and the bytes of gate and up [tokens]."""
        ones = torch.ones(len(x))
        first, whole = looked(x, ones), into(x, ones)
        coarse, exact = (_values(dense, wide, each.y) for each in (first, whole))
        row = self.graded.levels[1] / INT8_BITS * down.outputs
        rest = (whole.bytes - first.bytes) / down.num_inputs
        cost = self._threshold**2 * (rest + row).unsqueeze(1)
        kept = coarse.square() * column_errors(down, (0,), mean_fisher(down))[0] > cost
        return torch.where(kept, exact, coarse), first.bytes + kept.sum(1) * rest

    def _first(self, wide: Matrix) -> GradedForm:
        passes = self.graded.passes(wide) * self.ratio
        over = torch.tensor([bits > self.cap for bits in self.graded.levels[1:]])
        return GradedForm.of(self.graded, wide, passes.masked_fill(over.unsqueeze(1), float("inf")))

    def _form(self, matrix: Matrix) -> GradedForm:
        return GradedForm.of(self.graded, matrix, self.graded.passes(matrix))

    def _set(self, threshold: float) -> None:
        self._threshold = threshold
        self.graded.set_threshold([m for m in self._matrices if m.kind in self._axis], threshold)

    def _read_at(self, threshold: float) -> float:
        """The share of the axis's bytes, on a few tokens of the calibration text."""
        self._set(threshold)
        read = 0.0
        for matrix in (m for m in self._matrices if m.kind in self._axis):
            x, stream = sample(matrix, _SAMPLE)
            spent = self._form(matrix)(x, stream).bytes
            if matrix.kind == FFN[0]:
                down = next(m for m in self._matrices if (m.kind, m.layer) == (FFN[1], matrix.layer))
                _, spent = self._neurons(
                    self.dense[matrix.layer], matrix, down, self._first(matrix), self._form(matrix), x
                )
            read += float(spent.mean())
        return read / sum(m.whole_bytes for m in self._matrices if m.kind in self._axis)


def _values(dense: DenseFFN, wide: Matrix, y: Tensor) -> Tensor:
    """What the neurons give, from the products of gate and up, or of up alone."""
    y = y if wide.bias is None else y + wide.bias
    if dense.gate is None:
        return dense.activation(y)
    gate, up = y.chunk(2, -1)
    return dense.activation(gate) * up
