"""Graded inputs with a bound for every token in place of one threshold: on an error, its hard limit, or a share.

What a token leaves of a matrix at a threshold t of its own, with steps up where |x_k| worth[l] > t, is

    left(x, t) = sum over k of |x_k|^p v[level of k],    v = 0 at 8 bits.

p = 2, v[b] = sum over n of scale[n]^2 mean over k of (q - c_b(q))^2: the variance of the outputs' error, summed.
p = 1, v[b] = |scale| max |q - c_b(q)|: a limit on the norm of that error, which nothing passes.
p = 0, v[b] = (8 - b) / 8 of a column's bytes: a share for each token, the control.
The threshold of a token is the largest that leaves no more than its bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ....models.progress import Progress
from .graded import DEFAULT_LEVELS, Graded, GradedForm, column_errors, named, sample
from .matrices import AXES, INT8_BITS, Form, Matrix, Read
from .thresholds import Part, by_step, threshold_for

Quantity = Literal["error", "limit of the error", "share"]
_POWERS: dict[Quantity, int] = {"error": 2, "limit of the error": 1, "share": 0}
_OCTAVES, _BISECTIONS = 20, 13  # below the largest input of a token, whose threshold is looked for
_SAMPLE, _DIAL_BISECTIONS = 64, 10  # of calibration tokens that the one price or bound is set on
LARGEST = 127  # that a weight can be


@dataclass(frozen=True, eq=False)
class Leaves:
    """One matrix: v of `left`, fp32 [levels]; what |x| has to pass for each step where the threshold is 1, [steps].

    energy: what |x_k| = 1 gives on average, squared and summed over outputs.
    """

    matrix: Matrix
    levels: tuple[int, ...]
    power: int
    values: Tensor
    steps: Tensor
    energy: float

    @classmethod
    def of(cls, matrix: Matrix, levels: tuple[int, ...], steps: Tensor, quantity: Quantity) -> "Leaves":
        errors = column_errors(matrix, levels, torch.ones(matrix.outputs)).mean(1)
        most = [(2 ** (INT8_BITS - bits) - 1) / 2 if bits else LARGEST for bits in levels]
        values = {
            "error": errors,
            "limit of the error": matrix.scale.norm() * torch.tensor(most),
            "share": torch.tensor([matrix.outputs * (1 - bits / INT8_BITS) for bits in levels]),
        }
        return cls(matrix, levels, _POWERS[quantity], values[quantity].float(), steps, float(errors[0]))

    def left(self, x: Tensor, threshold: Tensor) -> Tensor:
        """[tokens]. x: [tokens, inputs]; threshold: [tokens]."""
        size = x.abs()
        weight = size**self.power
        left = weight.sum(1) * self.values[0]
        for passes, more, less in zip(self.passes(threshold), self.values, self.values[1:], strict=False):
            left -= torch.where(size > passes, weight, 0.0).sum(1) * (more - less)
        return left

    def passes(self, threshold: Tensor) -> Tensor:
        """What |x| has to pass for each step up, [steps, tokens, 1]."""
        return (self.steps.unsqueeze(1) * threshold).unsqueeze(2)

    def threshold(self, x: Tensor, bound: Tensor) -> Tensor:
        """The largest that leaves at most `bound` [tokens] of each token, [tokens], within 0.2 %."""
        high = (x.abs().amax(1) / self.steps.min()).clamp(min=1e-30).log2() + 1
        low = high - _OCTAVES
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            fits = self.left(x, middle.exp2()) <= bound
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low.exp2()

    def part(self, x: Tensor) -> Part:
        """The same as a part of many that have one threshold."""
        return self.matrix, x.abs(), self.steps.reciprocal().unsqueeze(1).expand(-1, x.shape[1])

    def bytes(self, x: Tensor, threshold: Tensor) -> Tensor:
        """What each token reads, [tokens]."""
        bits = torch.tensor(self.levels)[by_step(x.abs(), self.passes(threshold)).int()]
        return self.matrix.scale_bytes + bits.sum(1) * (self.matrix.outputs / INT8_BITS)


@dataclass
class Bounded:
    """quantity: what is bounded. relative: over the output's norm, as it is foreseen.

    everywhere: one bound for all matrices, over the Fisher information of each where it is absolute; else each matrix
    has its own: what it leaves in the mean at one price of a byte. at_most: the threshold stays the one of that
    price, but for tokens that would leave more than so many times the mean.
    """

    quantity: Quantity
    relative: bool = True
    everywhere: bool = False
    at_most: float = 0.0
    name: str = ""
    group: str = "graded inputs, a bound a token"
    calibrates: bool = False
    _graded: Graded = field(default_factory=lambda: Graded(DEFAULT_LEVELS, column=False))
    _leaves: dict[int, Leaves] = field(default_factory=dict)  # by the id of a matrix
    _bounds: dict[int, float] = field(default_factory=dict)
    _price: float = 0.0

    def __post_init__(self) -> None:
        kind = "" if self.quantity == "share" else "relative " if self.relative else "absolute "
        same = "the same everywhere" if self.everywhere else "the same for each token"
        said = f"at most {self.at_most:g} times the mean" if self.at_most else same
        self.name = self.name or f"inputs at {named(self._graded.levels)} bits, {kind}{self.quantity} {said}"

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        graded = self._graded
        graded.learn(matrices, progress)
        graded.set_threshold(matrices, 1.0)
        levels, quantity = graded.levels, self.quantity
        self._leaves = {id(m): Leaves.of(m, levels, graded.passes(m)[:, 0], quantity) for m in matrices}

    def aim(self, axis: str, share: float) -> None:
        """Finds the price, or the bound that is the same everywhere, at which calibration text reads this share."""
        leaves = [each for each in self._leaves.values() if each.matrix.kind in AXES[axis]]
        given = [(each, sample(each.matrix, _SAMPLE)[0]) for each in leaves]
        budget = share * sum(each.matrix.whole_bytes for each in leaves)
        price = threshold_for([each.part(x) for each, x in given], self._graded.levels, share)
        near = [self._usual(*each, price) for each in given] if self.everywhere else [price]
        low, high = math.log2(min(near)) - 2, math.log2(max(near)) + 2
        for _ in range(_DIAL_BISECTIONS):
            middle = (low + high) / 2
            self._set(given, 2.0**middle)
            spent = sum(float(each.bytes(x, self._thresholds(each, x)).mean()) for each, x in given)
            low, high = (middle, high) if spent > budget else (low, middle)
        self._set(given, 2.0**high)

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        if id(matrix) not in self._bounds:
            return matrix.whole
        leaves, graded = self._leaves[id(matrix)], GradedForm.of(self._graded, matrix, torch.empty(0))

        def compute(given: Tensor, stream: Tensor) -> Read:
            return replace(graded, passes=leaves.passes(self._thresholds(leaves, given)))(given, stream)

        return compute

    def _set(self, given: Sequence[tuple[Leaves, Tensor]], dial: float) -> None:
        """dial: the bound where it is the same everywhere, else the price."""
        self._price = dial
        self._bounds = {id(each.matrix): self._bound(each, x, dial) for each, x in given}

    def _bound(self, leaves: Leaves, x: Tensor, dial: float) -> float:
        return dial / self._cost(leaves) if self.everywhere else self._usual(leaves, x, dial) * (self.at_most or 1.0)

    def _usual(self, leaves: Leaves, x: Tensor, price: float) -> float:
        """What is left in the mean at a price, at what it costs."""
        left = leaves.left(x, torch.full((len(x),), price))
        return float((left / self._norms(leaves, x)).mean()) * self._cost(leaves)

    def _cost(self, leaves: Leaves) -> float:
        """Of a unit of the quantity in this matrix beside others, where they share a bound."""
        return float(leaves.matrix.fisher.mean()) if self.everywhere and not self.relative else 1.0

    def _thresholds(self, leaves: Leaves, x: Tensor) -> Tensor:
        own = leaves.threshold(x, self._bounds[id(leaves.matrix)] * self._norms(leaves, x))
        return own.clamp(max=self._price) if self.at_most else own

    def _norms(self, leaves: Leaves, x: Tensor) -> Tensor:
        """What the quantity stands beside, [tokens]: of an error's variance the squared norm, of its limit the norm."""
        if self.quantity == "share" or not self.relative:
            return torch.ones(len(x))
        foreseen = x.square().sum(1) * leaves.energy
        return foreseen.clamp(min=1e-30) ** (leaves.power / 2)
