"""Rows of activations on their way into integer products, in Triton: normalised, and in 16-bit fixed point.

    n = x, or rms_norm(x), or layer_norm(x);   q = round(n / step),  step = max|n| / 32639

What a whole row decides, statistics of its norm and its largest value, is measured once; each program of a product then
makes the digits of the inputs that it multiplies. Values are made by one function everywhere and without fused
multiplications, so that no digit depends on who made it.
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .graded.digits import LARGEST, LEAST_STEP
from .jit import constant, constexpr, jit, tl

PLAIN, RMS, LAYER, TOLD = range(4)
_LARGEST, _LEAST_STEP = constant(float(LARGEST)), constant(LEAST_STEP)
_ROUNDER = constant(12582912.0)  # 1.5 * 2^23: beside it fp32 has whole numbers only
_PARTS = constant(64)  # of a row, looked at together
_RMS, _LAYER, _TOLD = constant(RMS), constant(LAYER), constant(TOLD)
_BLOCK = 2048  # values of a row at a time: with more, threads spill registers
_LOADED = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class RowNorm:
    """kind: RMS or LAYER; weight and bias: [inputs]; eps: added to the mean square or the variance."""

    kind: int
    weight: Tensor
    bias: Tensor | None
    eps: float


@dataclass(frozen=True)
class Rows:
    """x: [rows, inputs] of which each row is contiguous; largest: fp32 [rows, parts], of |n| in each part of a row,
    infinite where one of them is not finite; stats: fp32 [rows, 2], mean and rate of a norm.

    told: an RMS norm whose row was told by its writer, part by part: stats are sums of squares, fp32 [rows, parts], and
    largest is of |x weight|.
    """

    x: Tensor
    largest: Tensor
    norm: RowNorm | None = None
    stats: Tensor | None = None
    told: bool = False

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x, largest, stats, weight, bias; what is not there is x."""
        norm, x = self.norm, self.x
        weight = x if norm is None else norm.weight
        bias = x if norm is None or norm.bias is None else norm.bias
        return x, self.largest, x if self.stats is None else self.stats, weight, bias

    @property
    def kind(self) -> int:
        return TOLD if self.told else self.norm.kind if self.norm else PLAIN

    @property
    def eps(self) -> float:
        return self.norm.eps if self.norm else 0.0

    def some(self, part: slice) -> "Rows":
        """Some of them."""
        stats = None if self.stats is None else self.stats[part]
        return Rows(self.x[part], self.largest[part], self.norm, stats, self.told)


@dataclass(frozen=True)
class Target:
    """Where a product goes. y: [rows, outputs], each row contiguous. added: to what y holds. activation: its name, of
    outputs by themselves, or, gated, of the first half of them, which then multiplies the second.
    largest: fp32 [rows, parts of y], to be filled for whoever reads y next, or None; squares: the same of sums of
    squares, where an RMS norm with these weights is next, so that largest is of |y weights| (Rows.told).
    """

    y: Tensor
    added: bool = False
    activation: str = ""
    gated: bool = False
    largest: Tensor | None = None
    squares: Tensor | None = None
    weights: Tensor | None = None

    @property
    def operands(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, largest, squares, weights; what is not there is y."""
        y = self.y
        largest, squares, weights = (y if each is None else each for each in (self.largest, self.squares, self.weights))
        return y, largest, squares, weights

    @property
    def constants(self) -> dict[str, object]:
        told = {"TELLS": self.largest is not None, "SQUARES": self.squares is not None}
        return {"ADDED": self.added, "ACTIVATION": self.activation, "GATED": self.gated, **told}

    def some(self, part: slice) -> "Target":
        """Of some of the rows."""
        largest, squares = (None if each is None else each[part] for each in (self.largest, self.squares))
        return replace(self, y=self.y[part], largest=largest, squares=squares)


def power_of_two(count: int) -> int:
    """The least that is no smaller."""
    return 1 << max(0, count - 1).bit_length()


@jit
def values_at(x, row, k, stride_x, tokens, inputs):
    """fp32 [rows, k], zeros beyond the operand."""
    inside = (row < tokens)[:, None] & (k < inputs)[None, :]
    return tl.load(x + row.to(tl.int64)[:, None] * stride_x + k[None, :], mask=inside, other=0.0).to(tl.float32)


@jit
def normed_at(x, row, k, stride_x, tokens, inputs, mean, rate, weight, bias, NORM: constexpr):
    """n, fp32 [rows, k], zeros beyond the operand; mean and rate: fp32 [rows]."""
    value = values_at(x, row, k, stride_x, tokens, inputs)
    if NORM == _LAYER:
        value = value - mean[:, None]
    if NORM >= _RMS:
        value = value * rate[:, None] * tl.load(weight + k, mask=k < inputs, other=0.0).to(tl.float32)[None, :]
    if NORM == _LAYER:
        value = value + tl.load(bias + k, mask=k < inputs, other=0.0).to(tl.float32)[None, :]
        value = tl.where((row < tokens)[:, None] & (k < inputs)[None, :], value, 0.0)
    return value


@jit
def stats_at(stats, row, tokens, NORM: constexpr):
    """Mean and rate of rows, fp32 [rows]."""
    mean = tl.zeros_like(row).to(tl.float32)
    rate = mean
    if NORM >= _RMS:
        rate = tl.load(stats + 2 * row + 1, mask=row < tokens, other=0.0)
    if NORM == _LAYER:
        mean = tl.load(stats + 2 * row, mask=row < tokens, other=0.0)
    return mean, rate


@jit
def steps_at(largest, row, tokens, parts):
    """fp32 [rows], infinite for rows that hold what is not finite."""
    return step_of(_most_at(largest, row, tokens, parts))


@jit
def step_of(most):
    """The step of rows by their largest value, fp32."""
    return tl.maximum(tl.div_rn(most, tl.zeros_like(most) + _LARGEST), _LEAST_STEP)


@jit
def row_at(largest, stats, row, tokens, inputs, parts, eps, NORM: constexpr):
    """Mean, rate and step of one row, fp32 [1] each. row: [1], so that no sum depends on how many there are."""
    mean, rate, most = told_at(largest, stats, row, tokens, inputs, parts, eps, NORM)
    return mean, rate, step_of(most)


@jit
def told_at(largest, stats, row, tokens, inputs, parts, eps, NORM: constexpr):
    """The same with the largest value in place of the step."""
    most = _most_at(largest, row, tokens, parts)
    if NORM == _TOLD:
        squares = tl.zeros([1, _PARTS], tl.float32)
        for start in range(0, parts, _PARTS):
            part = start + tl.arange(0, _PARTS)
            inside = (row < tokens)[:, None] & (part < parts)[None, :]
            squares += tl.load(stats + row[:, None] * parts + part[None, :], mask=inside, other=0.0)
        mean = tl.zeros([1], tl.float32)
        rate = 1.0 / tl.sqrt_rn(tl.sum(squares, 1) / inputs + eps)
        most = most * rate
        most = tl.where(most < float("inf"), most, float("inf"))
    else:
        mean, rate = stats_at(stats, row, tokens, NORM)
    return mean, rate, most


@jit
def _most_at(largest, row, tokens, parts):
    most = tl.zeros_like(row).to(tl.float32)
    for start in range(0, parts, _PARTS):
        part = start + tl.arange(0, _PARTS)
        inside = (row < tokens)[:, None] & (part < parts)[None, :]
        some = tl.load(largest + row[:, None] * parts + part[None, :], mask=inside, other=0.0)
        most = tl.maximum(most, tl.max(some, 1))
    return most


@jit
def size_of(value):
    """|value|, infinite where it is not finite."""
    size = tl.abs(value)
    return tl.where(size < float("inf"), size, float("inf"))  # NaN is not less


@jit
def fixed_point(value, sound, step):
    """q, int32 [rows, k]; zeros for rows that are not sound: bool [rows]."""
    whole = tl.where(sound[:, None], value, 0.0)
    ratio = tl.div_rn(whole, tl.where(sound, step, 1.0)[:, None] + tl.zeros_like(whole))
    return to_even(ratio).to(tl.int32)


@jit
def to_even(value):
    """The nearest whole number of fp32 values up to 2^22, as torch.round has it."""
    return (value + _ROUNDER) - _ROUNDER


@jit
def _measure_kernel(
    largest, stats,  # fp32 [rows, 1], [rows, 2]
    x, weight, bias,
    stride_x, inputs, eps,
    NORM: constexpr, BLOCK: constexpr,
):  # fmt: skip
    row = tl.program_id(0) + tl.arange(0, 1)
    mean, rate, most = measured_at(x, row, stride_x, tl.num_programs(0), inputs, weight, bias, eps, NORM, BLOCK)
    if NORM >= _RMS:
        tl.store(stats + 2 * row, mean)
        tl.store(stats + 2 * row + 1, rate)
    tl.store(largest + row, most)


@jit
def measured_at(x, row, stride_x, tokens, inputs, weight, bias, eps, NORM: constexpr, BLOCK: constexpr):
    """Mean, rate and largest value of one row that nobody told of, fp32 [1] each. row: [1]."""
    mean = tl.zeros([1], tl.float32)
    rate = mean
    if NORM == _LAYER:
        total = tl.zeros([1, BLOCK], tl.float32)
        for start in range(0, inputs, BLOCK):
            total += values_at(x, row, start + tl.arange(0, BLOCK), stride_x, tokens, inputs)
        mean = tl.sum(total, 1) / inputs
    if NORM >= _RMS:
        square = tl.zeros([1, BLOCK], tl.float32)
        for start in range(0, inputs, BLOCK):
            k = start + tl.arange(0, BLOCK)
            away = values_at(x, row, k, stride_x, tokens, inputs) - mean[:, None]
            square += tl.where((k < inputs)[None, :], away * away, 0.0)
        rate = 1.0 / tl.sqrt_rn(tl.sum(square, 1) / inputs + eps)
    most = tl.zeros([1, BLOCK], tl.float32)
    for start in range(0, inputs, BLOCK):
        k = start + tl.arange(0, BLOCK)
        most = tl.maximum(most, size_of(normed_at(x, row, k, stride_x, tokens, inputs, mean, rate, weight, bias, NORM)))
    return mean, rate, tl.max(most, 1)


def measured(x: Tensor, norm: RowNorm | None = None) -> Rows:
    """What a product needs of x: floating point [rows, inputs], in one launch."""
    x = x if x.dtype in _LOADED else x.float()
    x = x if x.stride(1) == 1 else x.contiguous()
    largest, stats = (x.new_empty(len(x), columns, dtype=torch.float32) for columns in (1, 2))
    rows = Rows(x, largest, norm, stats if norm else None)
    measure_(rows)
    return rows


def measure_(rows: Rows) -> None:
    """Fills largest, [rows, 1], and stats."""
    x, largest, stats, weight, bias = rows.operands
    _measure_kernel[len(x),](
        largest, stats, x, weight, bias, x.stride(0), x.shape[1], rows.eps,
        NORM=rows.kind, BLOCK=min(_BLOCK, power_of_two(x.shape[1])), num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
