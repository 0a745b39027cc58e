"""Rivals over all linears: fewer bits for every weight, plain shares of levels, inputs read whole or not."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ....models.progress import Progress
from ..method import NotHere
from .gptq import gptq, group_scales, nearest
from .graded import Graded, named
from .matrices import (
    ATTENTION_IN,
    ATTENTION_OUT,
    AXES,
    FFN_IN,
    FFN_OUT,
    INT8_BITS,
    LINEARS_AXIS,
    Form,
    Matrix,
    Read,
)

_NEAR = 0.04  # between the share that is asked and that of weights which have one
_TOKENS = 2048
_PLANS = {  # by the share of the bytes of all linears: (share of inputs, bits), the most important first
    0.55: ([(0.15, 8), (0.35, 6), (0.5, 4)], [(0.15, 7), (0.45, 5), (0.4, 3)], [(0.1, 7), (0.3, 5), (0.4, 3)]),
    0.50: ([(0.1, 8), (0.3, 6), (0.6, 4)], [(0.1, 7), (0.4, 5), (0.5, 3)], [(0.1, 7), (0.25, 5), (0.3, 3)]),
}  # fmt: skip
_PLACES = {ATTENTION_IN: 0, ATTENTION_OUT: 0, FFN_IN: 1, FFN_OUT: 2}


@dataclass
class FewerBits:
    """The original weights of every linear in so many bits, with a 16-bit scale for each `columns` of a row (0: of a
    whole row): to nearest, or by GPTQ. Which matrices: those of the axis.
    """

    bits: int
    columns: int = 32
    by_gptq: bool = False
    ordered: bool = True
    group: str = "fewer bits"
    name: str = ""
    _kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        how = ("by GPTQ" if self.ordered else "by GPTQ, columns as they stand") if self.by_gptq else "to nearest"
        self.name = self.name or f"int{self.bits} {how}, {f'groups of {self.columns}' if self.columns else 'a row'}"

    @property
    def calibrates(self) -> bool:
        return self.by_gptq

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        pass

    def aim(self, axis: str, share: float) -> None:
        own = (self.bits + (16 / self.columns if self.columns else 0)) / INT8_BITS
        if abs(share - own) > _NEAR:
            raise NotHere(f"these weights are {own:.2f} of the bytes")
        self._kinds = AXES[axis]

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        if matrix.kind not in self._kinds:
            return matrix.whole
        weight = self._rounded(matrix, x).bfloat16()
        read = self.bits / 8 * weight.numel() + 2 * matrix.outputs * -(-matrix.num_inputs // self._columns(matrix))
        scaleless = replace(matrix, scale=torch.ones(()))
        return lambda given, _: Read(scaleless.product(given, weight), torch.full((len(given),), read))

    def _rounded(self, matrix: Matrix, x: Tensor) -> Tensor:
        columns, weight = self._columns(matrix), matrix.original.float()
        if not self.by_gptq:
            scale = group_scales(weight, self.bits, columns, torch.ones(matrix.num_inputs))
            return nearest(weight, scale.repeat_interleave(columns, 1)[:, : matrix.num_inputs], self.bits)
        hessian = torch.zeros(matrix.num_inputs, matrix.num_inputs)
        for part in torch.split(x, _TOKENS):
            hessian += part.T @ part
        return gptq(weight, hessian, self.bits, columns, self.ordered)

    def _columns(self, matrix: Matrix) -> int:
        return self.columns or matrix.num_inputs


@dataclass
class PlainPlan:
    """Fixed shares of levels by rank of |x_k| ||w_k||, the same in every layer: neither prices nor thresholds."""

    group: str = "graded inputs"
    name: str = "inputs at fixed shares of levels"
    calibrates: bool = False
    _plans: Sequence[Sequence[tuple[float, int]]] = field(default_factory=list)

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        pass

    def aim(self, axis: str, share: float) -> None:
        if axis != LINEARS_AXIS or share not in _PLANS:
            raise NotHere(f"the plans are of {' and '.join(map(str, _PLANS))} of the bytes of all linears")
        self._plans = _PLANS[share]

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        if matrix.kind not in _PLACES:
            return matrix.whole
        plan = self._plans[_PLACES[matrix.kind]]
        norms = (matrix.levels.float() * matrix.scale.unsqueeze(1)).norm(dim=0)
        weights = [matrix.high_bits(bits) for _, bits in plan]

        def compute(given: Tensor, _: Tensor) -> Read:
            rank = (given.abs() * norms).argsort(-1, descending=True).argsort(-1)
            y, read, low = torch.zeros(len(given), matrix.outputs), float(matrix.scale_bytes), 0
            for (part, bits), levels in zip(plan, weights, strict=True):
                high = low + round(part * matrix.num_inputs)
                y += matrix.product(torch.where((rank >= low) & (rank < high), given, 0.0), levels)
                read += (high - low) * bits / INT8_BITS * matrix.outputs
                low = high
            return Read(y, torch.full((len(given),), read))

        return compute


def whole_or_not() -> list[Graded]:
    """TEAL (Liu et al. 2024) and WINA (Chen et al. 2025) with the same share in every matrix; WINA with shares by the
    error of what each matrix gives, as WiSparse (Chen et al. 2026) does by a search; and with our prices.
    """
    both = (0, INT8_BITS)
    return [
        Graded(both, "none", column=False, one_price=False, name="TEAL", group="inputs"),
        Graded(both, "none", one_price=False, name="WINA", group="inputs"),
        Graded(both, "relative error", name="WINA, shares as WiSparse's", group="inputs"),
        Graded(both, name="TEAL and WINA at one price", group="inputs"),
    ]


def by_size_alone() -> list[Graded]:
    """GRINQH (Oberlaender et al. 2026) as its abstract has it: levels by |x| alone, the same share in every matrix."""
    levels = ((0, 2, 4, 8), (0, 4, 6, 8))
    return [Graded(each, "none", column=False, one_price=False, name=f"GRINQH, {named(each)} bits") for each in levels]
