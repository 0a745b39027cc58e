"""Graded inputs: how many bits of its column an input is worth, by its size alone, at one price for all matrices.

Reading b bits of column k of scale[n] q[n, k] leaves the error x_k^2 e[b, k], where
    e[b, k] = sum over n of fisher[n] scale[n]^2 (q[n, k] - c_b(q[n, k]))^2
and c_b is the middle of what b high bits leave open. A byte is spent where it takes away most: reverse water-filling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ....kernels.graded.worth import falling
from ....models.progress import Progress
from ..method import NotHere
from .matrices import ATTENTION_OUT, AXES, FFN_OUT, INT8_BITS, Form, Matrix, Read
from .thresholds import by_step, fixed_bytes, threshold_for

Sensitivity = Literal["fisher", "fisher by output", "relative error", "none"]
Stream = Literal["", "out", "all"]
DEFAULT_LEVELS = (0, 4, 6, 8)
_SAMPLE = 256
_SENSITIVITIES: dict[Sensitivity, str] = {
    "fisher": "", "fisher by output": "Fisher by output", "relative error": "relative error", "none": "no sensitivity",
}  # fmt: skip


@dataclass
class Graded:
    """levels: numbers of bits that an input may be read with, 0 for none.

    sensitivity: of outputs, by the Fisher information (its mean over a matrix, or output by output), one over the mean
    square of what a matrix gives, or none: all outputs alike. column: whether e is known of each column, or its mean.
    stream: whether an input counts beside the rms of the stream, in the matrices that add to it, or in all.
    one_price: else every matrix reads the same share. fitted: a scale for each row and level by least squares in
    place of the middle. constant: the mean of what is left out on calibration text is added.
    """

    levels: tuple[int, ...] = DEFAULT_LEVELS
    sensitivity: Sensitivity = "fisher"
    column: bool = True
    stream: Stream = ""
    one_price: bool = True
    fitted: bool = False
    constant: bool = False
    name: str = ""
    group: str = "graded inputs"
    calibrates: bool = False
    _matrices: Sequence[Matrix] = ()
    _worth: list[Tensor] = field(default_factory=list)
    _threshold: dict[int, float] = field(default_factory=dict)  # by the id of a matrix that is graded

    def __post_init__(self) -> None:
        said = [_SENSITIVITIES[self.sensitivity], "" if self.column else "|x| alone"]
        said += [f"beside the stream, {self.stream}" if self.stream else ""]
        said += ["" if self.one_price else "the same share everywhere"]
        said += ["a fitted scale" if self.fitted else "", "a constant" if self.constant else ""]
        self.name = self.name or ", ".join([f"inputs at {named(self.levels)} bits", *filter(None, said)])

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        self._matrices, self._worth = matrices, []
        for i, matrix in enumerate(matrices):
            errors = column_errors(matrix, self.levels, _fisher(matrix, self.sensitivity))
            if not self.column:
                errors = errors.mean(1, keepdim=True).expand_as(errors)
            self._worth.append(worth(errors, self.levels, matrix.outputs))
            progress(f"{self.name}: what an input is worth", i + 1, len(matrices))

    def aim(self, axis: str, share: float) -> None:
        chosen = [(m, w) for m, w in zip(self._matrices, self._worth, strict=True) if m.kind in AXES[axis]]
        groups = [chosen] if self.one_price else [[each] for each in chosen]
        self._threshold = {}
        for group in groups:
            parts = [(matrix, self.sizes(matrix, *sample(matrix)), w) for matrix, w in group]
            if fixed_bytes(parts, self.levels) > share * sum(matrix.whole_bytes for matrix, _ in group):
                raise NotHere(f"the least level alone is more than {share:.2f} of the bytes")
            found = threshold_for(parts, self.levels, share)
            self._threshold |= {id(matrix): found for matrix, _ in group}

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        if id(matrix) not in self._threshold:
            return matrix.whole
        return GradedForm.of(self, matrix, self.passes(matrix))

    def set_threshold(self, matrices: Sequence[Matrix], threshold: float) -> None:
        """Grades these matrices at a threshold, and no others."""
        self._threshold = {id(matrix): threshold for matrix in matrices}

    def passes(self, matrix: Matrix) -> Tensor:
        """What |x| has to pass for each step up, [steps, inputs]."""
        index = next(i for i, each in enumerate(self._matrices) if each is matrix)
        return self._threshold[id(matrix)] / self._worth[index].clamp(min=1e-30)

    def sizes(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Tensor:
        """|x|, beside the stream where that is asked: times usual / rms, whose square is 1 on average."""
        beside = self.stream == "all" or (self.stream == "out" and matrix.kind in (ATTENTION_OUT, FFN_OUT))
        if not beside:
            return x.abs()
        usual = matrix.stream.square().reciprocal().mean().rsqrt()
        return x.abs() * (usual / stream).unsqueeze(1)


@dataclass
class GradedForm:
    """One matrix at one threshold: passes [steps, inputs] says what |x| has to pass for each step of the levels."""

    method: Graded
    matrix: Matrix
    passes: Tensor
    weights: list[Tensor | None]  # of each level, bf16
    scales: list[Tensor]  # of each level and row
    constant: Tensor | None = None

    @classmethod
    def of(cls, method: Graded, matrix: Matrix, passes: Tensor) -> "GradedForm":
        weights = [matrix.high_bits(bits) if bits else None for bits in method.levels]
        scales = [_fitted(matrix, each) if method.fitted and each is not None else torch.ones(1) for each in weights]
        form = cls(method, matrix, passes, weights, scales)
        if method.constant:
            x = matrix.inputs.float()
            form.constant = (matrix.whole(x, matrix.stream).y - form(x, matrix.stream).y).mean(0)
        return form

    def __call__(self, x: Tensor, stream: Tensor) -> Read:
        sizes = self.method.sizes(self.matrix, x, stream)
        level = by_step(sizes, self.passes)
        y, read = torch.zeros(len(x), self.matrix.outputs), torch.full((len(x),), float(self._fixed))
        for i, (bits, weights, scale) in enumerate(zip(self.method.levels, self.weights, self.scales, strict=True)):
            here = level == i
            if weights is not None and here.any():
                y += scale * self.matrix.product(torch.where(here, x, 0.0), weights)
                read += here.sum(1) * (bits / INT8_BITS * self.matrix.outputs)
        return Read(y if self.constant is None else y + self.constant, read)

    @property
    def _fixed(self) -> int:
        """The scales of the rows; where they are fitted, one of bf16 for each level more; the constant, in bf16."""
        fitted = sum(each is not None for each in self.weights) * self.method.fitted
        return self.matrix.scale_bytes + 2 * self.matrix.outputs * (fitted + (self.constant is not None))


def column_errors(matrix: Matrix, levels: Sequence[int], fisher: Tensor) -> Tensor:
    """e[level, k], fp32 [levels, inputs]."""
    weight = (fisher * matrix.scale.square()).unsqueeze(1)
    return torch.stack([((matrix.levels - matrix.high_bits(bits)).float().square() * weight).sum(0) for bits in levels])


def worth(errors: Tensor, levels: Sequence[int], outputs: int) -> Tensor:
    """What |x| = 1 is worth at each step up, [levels - 1, inputs]: the root of the error that a byte takes away, made
    falling in the steps, so that a level above the hull is passed over.
    """
    return falling(errors, [outputs * (more - bits) / INT8_BITS for bits, more in pairwise(levels)]).sqrt()


def named(levels: Sequence[int]) -> str:
    """0, 4 and 8"""
    return f"{', '.join(map(str, levels[:-1]))} and {levels[-1]}"


def _fisher(matrix: Matrix, sensitivity: Sensitivity) -> Tensor:
    if sensitivity == "fisher by output":
        return matrix.fisher
    if sensitivity == "fisher":
        return mean_fisher(matrix)
    if sensitivity == "none":
        return torch.ones(matrix.outputs)
    y = matrix.whole(*sample(matrix)).y
    return (1 / y.square().mean()).expand(matrix.outputs)


def mean_fisher(matrix: Matrix) -> Tensor:
    """The same for every output, [outputs]."""
    return matrix.fisher.mean().expand(matrix.outputs)


def sample(matrix: Matrix, tokens: int = _SAMPLE) -> tuple[Tensor, Tensor]:
    """Inputs of tokens that are spread over the calibration text, and the rms of the stream beside them."""
    every = max(1, len(matrix.inputs) // tokens)
    return matrix.inputs[::every].float(), matrix.stream[::every]


def _fitted(matrix: Matrix, weights: Tensor) -> Tensor:
    """a[n] with the least sum over k of (q - a c)^2."""
    c = weights.float()
    return (c * matrix.levels.float()).sum(1) / c.square().sum(1).clamp(min=1e-30)
