"""digit_linear of many rows in Triton: both digits by tensor cores, over one tile of weights.

    sum_k q_k w[n, k] = 256 sum_k h_k w[n, k] + sum_k l_k w[n, k],  q = 256 h + l

Both sums fit into int32 and are exact, so that a row has the bits that it has alone. Weights are the left operand:
their bytes, w + 128 in tiles (digit_linear.py), turn into w in registers and need no way back through shared memory.
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

import torch
from torch import Tensor

from .int8_linear import TileConfig
from .jit import cdiv, constexpr, jit, tl
from .rows import Rows, fixed_point, measured, normed_at, stats_at, steps_at

_PIECE = 1024  # inputs whose digits a program makes


@jit
def _split_kernel(
    digits,  # int8 [2, tokens, width]
    x, largest, stats, weight, offset,  # as in Rows
    stride_x, tokens, inputs, parts, width,
    NORM: constexpr, PIECE: constexpr,
):  # fmt: skip
    row = tl.program_id(0) + tl.arange(0, 1)
    k = tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    mean, rate = stats_at(stats, row, tokens, NORM)
    size = steps_at(largest, row, tokens, parts)
    value = normed_at(x, row, k, stride_x, tokens, inputs, mean, rate, weight, offset, NORM)
    q = fixed_point(value, size < float("inf"), size)
    high = (q + 128) >> 8
    place = digits + row.to(tl.int64)[:, None] * width + k[None, :]
    tl.store(place, high.to(tl.int8), mask=(k < width)[None, :])
    tl.store(place + tokens.to(tl.int64) * width, (q - 256 * high).to(tl.int8), mask=(k < width)[None, :])


@jit
def _matrix_kernel(
    y, digits, tiles, largest, scale, bias,  # [tokens, outputs], int8 [2, tokens, width], int8 [blocks, quads, 32, 4]
    stride_y, tokens, outputs, quads, parts, width,
    HAS_BIAS: constexpr, BLOCK_TOKENS: constexpr, BLOCK_OUTPUTS: constexpr, BLOCK_INPUTS: constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    token = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    rows = tiles + ((n // 32).to(tl.int64) * quads * 32 + n % 32)[:, None] * 4
    high = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.int32)
    low = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.int32)
    digit_rows = digits + token.to(tl.int64)[None, :] * width
    every = tokens.to(tl.int64) * width
    for start in range(0, width, BLOCK_INPUTS):
        k = start + tl.arange(0, BLOCK_INPUTS)
        inside = (n < outputs)[:, None] & (k < 4 * quads)[None, :]
        w = tl.load(rows + ((k // 4) * 128 + k % 4)[None, :], mask=inside, other=0) ^ -128
        here = (k < width)[:, None] & (token < tokens)[None, :]
        high = tl.dot(w, tl.load(digit_rows + k[:, None], mask=here, other=0), high, out_dtype=tl.int32)
        low = tl.dot(w, tl.load(digit_rows + every + k[:, None], mask=here, other=0), low, out_dtype=tl.int32)
    size = steps_at(largest, token, tokens, parts)
    step = tl.where(size < float("inf"), size, float("nan"))
    doubled = (2 * (256 * high.to(tl.int64) + low.to(tl.int64))).to(tl.float32)
    result = doubled * (step[None, :] * 0.5 * tl.load(scale + n, mask=n < outputs, other=0.0)[:, None])
    if HAS_BIAS:
        result += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[:, None]
    place = y + token.to(tl.int64)[None, :] * stride_y + n[:, None]
    tl.store(place, result.to(y.dtype.element_ty), mask=(n < outputs)[:, None] & (token < tokens)[None, :])


def matrix_config(tokens: int, outputs: int) -> TileConfig:
    """Few tokens: narrow tiles, so that every multiprocessor streams weights. Many: tiles that fill tensor cores."""
    if tokens <= 32:
        return TileConfig(16 if tokens <= 16 else 32, 64, 128, 4, 3)
    return TileConfig(64, 64, 64, 4, 3) if tokens <= 64 or outputs < 4096 else TileConfig(64, 128, 64, 8, 3)


def digits_matrix(rows: Rows, width: int) -> Tensor:
    """int8 [2, tokens, width], zeros beyond the inputs, in one launch."""
    tokens, inputs = rows.x.shape
    digits = rows.x.new_empty(2, tokens, width, dtype=torch.int8)
    _split_kernel[tokens, cdiv(width, _PIECE)](
        digits, *rows.operands, rows.x.stride(0), tokens, inputs, rows.largest.shape[1], width,
        NORM=rows.kind, PIECE=_PIECE, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return digits


def digit_matrix_triton(x: Tensor, tiles: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """y, [tokens, outputs] in the dtype of x, in three launches. tiles: as DigitWeights has them."""
    rows, quads = measured(x), tiles.shape[1]
    digits = digits_matrix(rows, cdiv(4 * quads, 16) * 16)
    y = x.new_empty(len(x), len(scale))
    config = matrix_config(*y.shape)
    _matrix_kernel[cdiv(len(scale), config.block_outputs), cdiv(len(x), config.block_tokens)](
        y, digits, tiles.view(torch.int8), rows.largest,
        scale.contiguous(), scale if bias is None else bias.contiguous(),
        y.stride(0), *y.shape, quads, rows.largest.shape[1], digits.shape[2],
        HAS_BIAS=bias is not None, BLOCK_TOKENS=config.block_tokens, BLOCK_OUTPUTS=config.block_outputs,
        BLOCK_INPUTS=config.block_inputs, num_warps=config.num_warps, num_stages=config.num_stages,
        enable_fp_fusion=False,
    )  # fmt: skip
    return y
