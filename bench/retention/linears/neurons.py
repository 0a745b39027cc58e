"""Ways to spend bytes that look at whole neurons: of the FFN alone, as planes do, and both sides of graded inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....compress.moefy.importance import neuron_importance
from ....models.checkpoint import Checkpoint, load_transformer
from ....models.ffn.dense import FFN as DenseFFN
from ....models.progress import Progress
from ....models.transformer import Layer
from ..layer import LabLayer, mean_output
from ..method import CalibrationData, NotHere
from ..method import Form as FFNForm
from ..method import Method as FFNMethod
from ..planes import Planes
from .graded import GradedForm, column_errors, mean_fisher, sample
from .matrices import FFN, INT8_BITS, LINEARS, LINEARS_AXIS, Form, Matrix, Read
from .whole_ffn import FFNPlace, Neurons, NeuronsAtPrice, neuron_values

_TOKENS = 2048


@dataclass
class FFNAlone:
    """A method for FFNs, as bit planes in recipes are, and attention whole in int8."""

    method: FFNMethod
    checkpoint: Checkpoint
    windows: Tensor
    seed: int
    group: str = ""
    name: str = ""
    calibrates: bool = False
    _layers: list[LabLayer] = field(default_factory=list)
    _given: list[Tensor] = field(default_factory=list)
    _share: float = 0.0
    _others: int = 0
    _whole: int = 0

    def __post_init__(self) -> None:
        by_planes = isinstance(self.method, Planes)
        self.name = self.name or (f"neurons by planes, {self.method.name}" if by_planes else self.method.name)
        self.group = self.group or self.method.group

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        model = load_transformer(self.checkpoint, torch.device("cpu"))
        self._layers = [LabLayer.of(layer.ffn) for layer in model.layers if isinstance(layer, Layer)]
        importance = neuron_importance(model, self.windows, self.seed, lambda n, of: progress("importance", n, of))
        self._given = [matrix.inputs.float() for matrix in matrices if matrix.kind == FFN[0]]
        self.method.learn(CalibrationData(self._layers, self._given, importance, [], self.seed), progress)
        self._others = sum(m.whole_bytes for m in matrices if m.kind in LINEARS and m.kind not in FFN)
        self._whole = sum(layer.whole_bytes for layer in self._layers)

    def aim(self, axis: str, share: float) -> None:
        others = self._others if axis == LINEARS_AXIS else 0
        self._share = (share * (others + self._whole) - others) / self._whole
        if self._share <= 0:
            raise NotHere(f"attention alone is more than {share:.2f} of the bytes")
        self.method.form(0, self._given[0], self._share)  # raises NotHere

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        return matrix.whole

    def ffn(self, index: int, dense: DenseFFN) -> FFNPlace:
        layer, given = self._layers[index], self._given[index]
        form = self.method.form(index, given, self._share)
        constant = _constant(layer, given, form) if self.method.compensate else None

        def compute(x: Tensor) -> Read:
            used = form(x)
            return Read(used.y if constant is None else used.y + constant, used.bytes * layer.whole_bytes)

        return FFNPlace(compute)


def _constant(layer: LabLayer, given: Tensor, form: FFNForm) -> Tensor:
    return mean_output(layer, given, torch.cat([form(part).y for part in torch.split(given, _TOKENS)]))


@dataclass
class BothSides(NeuronsAtPrice):
    """Inputs graded at a higher price first, which foresees the neurons; those whose foreseen value is worth the bytes
    of the rest and of their row of down get the inputs at the price itself; the others keep what was foreseen.

    ratio: of the first price to the other. cap: the most bits of the first look.
    """

    ratio: float = 4.0
    cap: int = INT8_BITS
    group: str = field(default="both sides", kw_only=True)

    def __post_init__(self) -> None:
        most = f", {self.cap} bits at most" if self.cap < INT8_BITS else ""
        self.name = self.name or f"both sides, {self.graded.name}, first at {self.ratio:g} times the price{most}"

    def neurons(self, dense: DenseFFN, wide: Matrix, down: Matrix) -> Neurons:
        looked, into = self._first(wide), self.graded_form(wide)
        error = column_errors(down, (0,), mean_fisher(down))[0]

        def compute(x: Tensor) -> tuple[Tensor, Tensor]:
            ones = torch.ones(len(x))
            first, whole = looked(x, ones), into(x, ones)
            coarse, exact = (neuron_values(dense, wide, each.y) for each in (first, whole))
            rest = (whole.bytes - first.bytes) / down.num_inputs
            kept = coarse.square() * error > self.price(rest, down).unsqueeze(1)
            return torch.where(kept, exact, coarse), first.bytes + kept.sum(1) * rest

        return compute

    def ffn_bytes(self, index: int, x: Tensor) -> Tensor:
        """Down's for the neurons that int8 gives it."""
        wide, down = self.pair(index)
        given, stream = sample(down, self.aimed_on)
        return self.neurons(self.dense[index], wide, down)(x)[1] + self.graded_form(down)(given, stream).bytes

    def _first(self, wide: Matrix) -> GradedForm:
        passes = self.graded.passes(wide) * self.ratio
        over = torch.tensor([bits > self.cap for bits in self.graded.levels[1:]])
        return GradedForm.of(self.graded, wide, passes.masked_fill(over.unsqueeze(1), float("inf")))
