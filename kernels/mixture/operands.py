"""What products of a mixture's experts read, for a few tokens (few.py) and for many (many.py)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .weights import MixtureWeights


@dataclass(frozen=True)
class Operands:
    """Matrices [experts, outputs, inputs] that are multiplied by the same inputs: gate and up, or down."""

    matrices: tuple[Tensor, ...]
    scales: tuple[Tensor, ...]  # fp32 [experts, outputs]; of weights in floats anything

    @classmethod
    def up(cls, weights: MixtureWeights) -> "Operands":
        return cls._of((weights.gate, weights.up), (weights.gate_scale, weights.up_scale))

    @classmethod
    def down(cls, weights: MixtureWeights) -> "Operands":
        return cls._of((weights.down,), (weights.down_scale,))

    @classmethod
    def _of(cls, matrices: tuple[Tensor, ...], scales: tuple[Tensor | None, ...]) -> "Operands":
        pairs = zip(matrices, scales, strict=True)
        return cls(matrices, tuple(matrix if scale is None else scale for matrix, scale in pairs))

    @property
    def is_int8(self) -> bool:
        return self.matrices[0].dtype == torch.int8

    @property
    def words(self) -> tuple[Tensor, ...]:
        """int8 four at a time."""
        return tuple(each.view(torch.int32) for each in self.matrices) if self.is_int8 else self.matrices


@dataclass(frozen=True)
class Sources:
    """Rows of inputs, of which pair p reads number p / shared.

    x: floating point [rows, inputs], or int8 with digits apart: digit d of row r begins at r * row + d * digit bytes.
    size: fp32 [rows], of digits: their step, NaN where a row is no number, or, measured, the largest value of a row.
    """

    x: Tensor
    size: Tensor
    shared: int
    row: int
    digit: int = 0
    measured: bool = False

    @classmethod
    def split(cls, digits: Tensor, largest: Tensor, shared: int) -> "Sources":
        """digits: int8 [2, rows, width]; largest: fp32 [rows]."""
        return cls(digits, largest, shared, digits.stride(1), digits.stride(0), measured=True)

    @property
    def words(self) -> Tensor:
        return self.x.view(torch.int32) if self.x.dtype == torch.int8 else self.x

    @property
    def stride(self) -> int:
        """In elements of words."""
        return self.row // self._word

    @property
    def stride_digit(self) -> int:
        return self.digit // self._word

    @property
    def _word(self) -> int:
        return 4 if self.x.dtype == torch.int8 else 1
