"""What stands between the products of a decode step where no product can do it on its way out."""

# mypy: disable-error-code="no-untyped-def"

from torch import Tensor

from ..activations import activate
from ..jit import cdiv, constexpr, jit, tl
from ..rows import LAYER, RowNorm, Rows, normed_at, power_of_two, size_of, told_at

BLOCK = 256  # values of a program


@jit
def _normalise_kernel(
    y, x, largest, stats, weight, offset, stride_y, stride_x, inputs, parts, eps, NORM: constexpr, BLOCK: constexpr
):  # fmt: skip
    row = tl.program_id(0) + tl.arange(0, 1)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    tokens = tl.num_programs(0)
    mean, rate, _ = told_at(largest, stats, row, tokens, inputs, parts, eps, NORM)
    value = normed_at(x, row, k, stride_x, tokens, inputs, mean, rate, weight, offset, NORM)
    tl.store(
        y + row.to(tl.int64)[:, None] * stride_y + k[None, :], value.to(y.dtype.element_ty), mask=(k < inputs)[None, :]
    )


@jit
def _activate_kernel(
    y, largest, up, gate, stride_y, stride_up, stride_gate, width,
    ACTIVATION: constexpr, GATED: constexpr, BLOCK: constexpr,
):  # fmt: skip
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    k = part * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(up + row * stride_up + k, mask=k < width, other=0.0).to(tl.float32)
    if GATED:
        other = tl.load(gate + row * stride_gate + k, mask=k < width, other=0.0).to(tl.float32)
        value = activate(other, ACTIVATION) * value
    else:
        value = activate(value, ACTIVATION)
    tl.store(y + row * stride_y + k, value.to(y.dtype.element_ty), mask=k < width)
    most = tl.max(tl.where(k < width, size_of(value), 0.0), 0)
    tl.store(largest + row * tl.num_programs(1) + part, most)


@jit
def _vectors_kernel(
    y, x, weight, offset, stride_y, stride_x, width, eps,
    LAYER: constexpr, HAS_BIAS: constexpr, BLOCK: constexpr,
):  # fmt: skip
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * width
    d = tl.arange(0, BLOCK)
    value = tl.load(x + row * stride_x + first + d, mask=d < width, other=0.0).to(tl.float32)
    if LAYER:
        value = tl.where(d < width, value - tl.sum(value, 0) / width, 0.0)
    value = value / tl.sqrt_rn(tl.sum(value * value, 0) / width + eps)
    value = value * tl.load(weight + d, mask=d < width, other=0.0).to(tl.float32)
    if HAS_BIAS:
        value = value + tl.load(offset + d, mask=d < width, other=0.0).to(tl.float32)
    tl.store(y + row * stride_y + first + d, value.to(y.dtype.element_ty), mask=d < width)


def normalise_vectors_(y: Tensor, x: Tensor, norm: RowNorm) -> None:
    """Fills y, [rows, values], which may be x, with norms of x's vectors that are as wide as the weight."""
    (rows, values), width, bias = x.shape, len(norm.weight), norm.bias
    _vectors_kernel[rows, values // width](
        y, x, norm.weight, norm.weight if bias is None else bias, y.stride(0), x.stride(0), width, norm.eps,
        LAYER=norm.kind == LAYER, HAS_BIAS=bias is not None, BLOCK=power_of_two(width),
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def normalise_(y: Tensor, rows: Rows) -> None:
    """Fills y, [rows, inputs], with the rows as a product would take them."""
    count, inputs = y.shape
    x, largest, stats, weight, offset = rows.operands
    _normalise_kernel[count, cdiv(inputs, BLOCK)](
        y, x, largest, stats, weight, offset, y.stride(0), x.stride(0), inputs, largest.shape[1], rows.eps,
        NORM=rows.kind, BLOCK=BLOCK,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def activate_(y: Tensor, largest: Tensor, up: Tensor, gate: Tensor | None, activation: str) -> None:
    """Fills y, [rows, width], with act(up) or act(gate) * up, and largest, fp32 [rows, blocks of BLOCK], of |y|."""
    other = up if gate is None else gate
    _activate_kernel[len(y), cdiv(y.shape[1], BLOCK)](
        y, largest, up, other, y.stride(0), up.stride(0), other.stride(0), y.shape[1],
        ACTIVATION=activation, GATED=gate is not None, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
