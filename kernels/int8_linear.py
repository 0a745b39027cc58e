"""A linear layer with int8 weights: y[t, n] = scale[n] * sum_k x[t, k] * weight[n, k] + bias[n].

Weights are converted on their way into the multiplication and products are summed in fp32. On CUDA a Triton kernel
does it, on the CPU the C++ of cpp/linear.cpp, and plain torch wherever neither can.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from .cost import Cost
from .jit import HAS_TRITON, cdiv, constexpr, jit, tl
from .native import ISAS, Native, native
from .native_linear import linear_native

Implementation = Literal["triton", "native", "torch"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK_BYTES = 8 << 20  # of weights that the torch path holds in fp32 at a time
PORTABLE_TOKENS = 4  # above it torch's matrix product beats code without vector instructions


def int8_linear(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """y[t, n] = scale[n] * sum_k x[t, k] * weight[n, k] + bias[n], summed in fp32.

    x: fp32, bf16 or fp16 [..., inputs]; weight: int8 [outputs, inputs], contiguous; scale: fp32 [outputs];
    bias: floating point [outputs] or None (fp32 saves a conversion). Result: x.dtype [..., outputs].
    Moves `int8_linear_cost(...).bytes`; under autograd it is `int8_linear_torch`.
    Raises TypeError for dtypes, ValueError for shapes, strides and devices.
    """
    outputs, inputs = _check(x, weight, scale, bias)
    library = native() if x.is_cpu else None
    tokens = x.numel() // inputs if inputs else 0
    requires_grad = torch.is_grad_enabled() and _requires_grad(x, scale, bias)
    device = "cpu" if x.is_cpu else x.device.type
    isa = ISAS[library.isa] if library else None
    choice = choose_int8_linear(device, tokens, requires_grad, isa, HAS_TRITON)
    if choice == "native" and library:
        return int8_linear_native(x, weight, scale, bias, library)
    return (int8_linear_triton if choice == "triton" else int8_linear_torch)(x, weight, scale, bias)


def int8_linear_torch(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The same in plain torch: it judges the kernels, carries gradients, and runs anywhere."""
    rows = max(1, BLOCK_BYTES // max(1, 4 * weight.shape[1]))
    wide = x.float()
    y = torch.cat([torch.nn.functional.linear(wide, block.float()) for block in torch.split(weight, rows)], dim=-1)
    y = y * scale if bias is None else y * scale + bias
    return y.to(x.dtype)


def int8_linear_cost(tokens: int, inputs: int, outputs: int, activation_bytes: int) -> Cost:
    """Each operand once; `activation_bytes` is the size of one element of x and y."""
    moved = outputs * inputs + 4 * outputs + activation_bytes * tokens * (inputs + outputs)
    return Cost(bytes=moved, flops=2 * tokens * inputs * outputs)


def choose_int8_linear(device: str, tokens: int, requires_grad: bool, isa: str | None, triton: bool) -> Implementation:
    """Which implementation answers; `isa` is None where the C++ library is missing.

    There is no switch to dequantizing and calling torch for many tokens: with AVX-512 the C++ beats torch's own
    fp32 product twofold at every size, and one path keeps a row's result independent of the rows beside it.
    """
    if requires_grad or tokens == 0:
        return "torch"
    if device == "cuda" and triton:
        return "triton"
    if device == "cpu" and isa and (isa != "portable" or tokens <= PORTABLE_TOKENS):
        return "native"
    return "torch"


def _requires_grad(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> bool:
    return x.requires_grad or scale.requires_grad or (bias is not None and bias.requires_grad)


def _check(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> tuple[int, int]:
    """(outputs, inputs) of sound operands. Raises ValueError for others."""
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, bfloat16 or float16, it is {x.dtype}")
    if weight.dtype != torch.int8 or scale.dtype != torch.float32:
        raise TypeError(f"weight must be int8 and scale float32, they are {weight.dtype} and {scale.dtype}")
    if weight.dim() != 2 or not weight.is_contiguous():
        raise ValueError(
            f"weight must be contiguous [outputs, inputs], it is {list(weight.shape)} with strides {weight.stride()}"
        )
    outputs, inputs = weight.shape
    if x.dim() == 0 or x.shape[-1] != inputs:
        raise ValueError(f"x must be [..., {inputs}] for this weight, it is {list(x.shape)}")
    _check_vector("scale", scale, outputs, x)
    if bias is not None:
        _check_vector("bias", bias, outputs, x)
    if weight.device != x.device:
        raise ValueError(f"x is on {x.device}, weight on {weight.device}")
    return outputs, inputs


def _check_vector(name: str, vector: torch.Tensor, outputs: int, x: torch.Tensor) -> None:
    if vector.shape != (outputs,) or not vector.is_contiguous():
        raise ValueError(f"{name} must be contiguous [{outputs}], it is {list(vector.shape)}")
    if vector.device != x.device:
        raise ValueError(f"x is on {x.device}, {name} on {vector.device}")
    if not vector.is_floating_point():
        raise TypeError(f"{name} must be floating point, it is {vector.dtype}")


def int8_linear_native(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, library: Native
) -> torch.Tensor:
    """Calls the C++ library. bf16 is multiplied as bf16 where the processor can, else as fp32."""
    return linear_native(x, weight, scale, bias, library)


@dataclass(frozen=True)
class TileConfig:
    """Sizes of one program's tile and how Triton runs it."""

    block_tokens: int
    block_outputs: int
    block_inputs: int
    num_warps: int
    num_stages: int


def int8_linear_config(tokens: int, outputs: int, dtype: torch.dtype) -> TileConfig:
    """Few tokens: narrow tiles, so that every multiprocessor streams weights. Many: tiles that fill tensor cores."""
    if dtype == torch.float32:  # below 64 rows, where no target rounds operands to feed tensor cores
        return TileConfig(16, 32 if outputs >= 4096 else 16, 64, 4, 3) if tokens <= 16 else TileConfig(32, 32, 32, 4, 2)
    if tokens <= 16:
        return TileConfig(16, 64 if outputs >= 16384 else 32 if outputs >= 4096 else 16, 256, 4, 3)
    if tokens <= 64 or outputs < 4096:
        return TileConfig(64 if tokens <= 64 else 128, 64, 64, 4, 3)
    return TileConfig(128, 128, 64, 8, 3)


@jit
def _int8_linear_kernel(  # type: ignore[no-untyped-def]
    # [tokens, outputs], [tokens, inputs], [outputs, inputs], [outputs], [outputs]
    y, x, weight, scale, bias,
    # from one row to the next
    stride_y, stride_x,
    tokens, inputs, outputs,
    HAS_BIAS: constexpr,
    BLOCK_TOKENS: constexpr, BLOCK_OUTPUTS: constexpr, BLOCK_INPUTS: constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    token = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    weight_row = weight + row.to(tl.int64)[:, None] * inputs  # int64: outputs * inputs may pass 2**31
    x_row = x + token.to(tl.int64)[None, :] * stride_x
    # weights are the left operand: converted in registers, they need no way back through shared memory
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.float32)
    for start in range(0, inputs, BLOCK_INPUTS):
        k = start + tl.arange(0, BLOCK_INPUTS)
        w = tl.load(weight_row + k[None, :], mask=(row < outputs)[:, None] & (k < inputs)[None, :], other=0)
        a = tl.load(x_row + k[:, None], mask=(k < inputs)[:, None] & (token < tokens)[None, :], other=0.0)
        total = tl.dot(w.to(tl.float32).to(a.dtype), a, total, input_precision="ieee")
    result = total * tl.load(scale + row, mask=row < outputs, other=0.0)[:, None]
    if HAS_BIAS:
        result += tl.load(bias + row, mask=row < outputs, other=0.0).to(tl.float32)[:, None]
    tl.store(
        y + token.to(tl.int64)[None, :] * stride_y + row[:, None],
        result.to(y.dtype.element_ty),
        mask=(row < outputs)[:, None] & (token < tokens)[None, :],
    )


def int8_linear_triton(
    x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Makes one launch of the Triton kernel, without host synchronization, so that a CUDA graph can capture it."""
    outputs, inputs = weight.shape
    rows = x.reshape(-1, inputs)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    tokens = rows.shape[0]
    y = x.new_empty(*x.shape[:-1], outputs)
    if y.numel() == 0:
        return y
    config = int8_linear_config(tokens, outputs, x.dtype)
    _int8_linear_kernel[cdiv(outputs, config.block_outputs), cdiv(tokens, config.block_tokens)](
        y, rows, weight, scale, scale if bias is None else bias,
        outputs, rows.stride(0),
        tokens, inputs, outputs,
        HAS_BIAS=bias is not None,
        BLOCK_TOKENS=config.block_tokens, BLOCK_OUTPUTS=config.block_outputs, BLOCK_INPUTS=config.block_inputs,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return y
