"""The router of an FFN in experts: how much a token needs each of them.

scores = s(second s(first x)) predict the norm of each expert's output in a unit of the layer: D2DMoE (Szatkowski et
al., arXiv 2310.04361, section 3.2), but with s(z) = (z + sqrt(z^2 + 4)) / 2 (squareplus, Barron 2021) in place of |z|,
which turns back where z falls below 0, and of relu, whose units may fall silent together and leave all experts equal.
"""

from typing import Literal

import torch
from torch import Tensor

from .cost import Cost
from .dense_linear import dense_linear_torch
from .int8_linear import TileConfig
from .jit import HAS_TRITON, cdiv, constexpr, jit, tl
from .native import ISAS, native
from .native_expert_ffn import activated_rows_native

Implementation = Literal["triton", "native", "torch"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NATIVE_DTYPES = (torch.float32, torch.bfloat16)  # of the router's weights
PORTABLE_TOKENS = 4  # above it torch's matrix product beats code without vector instructions


def route_scores(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """s(second s(first x)), above 0, fp32 [tokens, experts].

    x: fp32, bf16 or fp16 [tokens, hidden]; first: [router_width, hidden], second: [experts, router_width], floating
    point, contiguous. On the CPU a token's scores have the same bits alone and in any batch.
    Raises TypeError for dtypes, ValueError for shapes, strides and devices.
    """
    _check(x, first, second)
    choice, library = _chosen(x, first, second), native() if x.is_cpu else None
    if choice == "native" and library:
        hidden = activated_rows_native(x.float(), first, "squareplus", library)
        return activated_rows_native(hidden, second, "squareplus", library)
    return route_triton(x, first, second) if choice == "triton" else route_scores_torch(x, first, second)


def route_scores_torch(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`route_scores` in plain torch: it judges the kernels, carries gradients, and runs anywhere."""
    return squareplus(dense_linear_torch(squareplus(dense_linear_torch(x.float(), first)), second))


def squareplus(z: Tensor) -> Tensor:
    """(z + sqrt(z^2 + 4)) / 2, without the difference of two large numbers where z is negative."""
    root = (z * z + 4).sqrt()
    return torch.where(z < 0, 2 / (root - z.clamp(max=0)), (z + root) / 2)  # no 0 is divided by: gradients see both


def route_cost(tokens: int, hidden: int, router_width: int, experts: int, weight_bytes: int) -> Cost:
    """Both matrices once, activations in fp32, and one byte for each decision."""
    weights = router_width * (hidden + experts)
    return Cost(bytes=weights * weight_bytes + tokens * (4 * hidden + experts), flops=2 * tokens * weights)


def choose_route(
    device: str, tokens: int, weights: torch.dtype, requires_grad: bool, isa: str | None, triton: bool
) -> Implementation:
    """Which implementation answers; `isa` is None where the C++ library is missing."""
    if requires_grad or tokens == 0:
        return "torch"
    if device == "cuda" and triton:
        return "triton"
    fits = weights in NATIVE_DTYPES and (isa != "portable" or tokens <= PORTABLE_TOKENS)
    return "native" if device == "cpu" and isa and fits else "torch"


def _chosen(x: Tensor, first: Tensor, second: Tensor) -> Implementation:
    library = native() if x.is_cpu else None
    requires_grad = torch.is_grad_enabled() and (x.requires_grad or first.requires_grad or second.requires_grad)
    isa = ISAS[library.isa] if library else None
    device = "cpu" if x.is_cpu else x.device.type
    return choose_route(device, x.shape[0], first.dtype, requires_grad, isa, HAS_TRITON)


def _check(x: Tensor, first: Tensor, second: Tensor) -> None:
    for name, tensor in (("x", x), ("first", first), ("second", second)):
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be float32, bfloat16 or float16, it is {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device}, {name} on {tensor.device}")
        if tensor.dim() != 2 or (name != "x" and not tensor.is_contiguous()):
            raise ValueError(f"{name} must be contiguous and have two dimensions, it is {list(tensor.shape)}")
    if first.shape[1] != x.shape[1]:
        raise ValueError(f"first must be [router_width, {x.shape[1]}] for this x, it is {list(first.shape)}")
    if second.shape[1] != first.shape[0] or second.dtype != first.dtype:
        raise ValueError(
            f"second must be {first.dtype} [experts, {first.shape[0]}] for this first, "
            f"it is {second.dtype} {list(second.shape)}"
        )


def route_config(tokens: int, dtype: torch.dtype) -> TileConfig:
    """Few tokens: narrow tiles, so that more multiprocessors read the small matrices."""
    if dtype == torch.float32:  # below 64 rows, where no target rounds operands to feed tensor cores
        return TileConfig(16, 16, 64, 4, 3) if tokens <= 16 else TileConfig(32, 32, 32, 4, 2)
    return TileConfig(16, 16, 256, 4, 3) if tokens <= 16 else TileConfig(64, 64, 64, 8, 3)


@jit
def _route_kernel(  # type: ignore[no-untyped-def]
    y, x, weight,  # [tokens, outputs], [tokens, inputs], [outputs, inputs]
    stride_x, tokens, inputs, outputs,
    BLOCK_TOKENS: constexpr, BLOCK_OUTPUTS: constexpr, BLOCK_INPUTS: constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    token = tl.program_id(1) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    weight_row = weight + row.to(tl.int64)[:, None] * inputs
    x_row = x + token.to(tl.int64)[None, :] * stride_x
    total = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.float32)
    for start in range(0, inputs, BLOCK_INPUTS):
        k = start + tl.arange(0, BLOCK_INPUTS)
        w = tl.load(weight_row + k[None, :], mask=(row < outputs)[:, None] & (k < inputs)[None, :], other=0.0)
        a = tl.load(x_row + k[:, None], mask=(k < inputs)[:, None] & (token < tokens)[None, :], other=0.0)
        total = tl.dot(w if w.dtype == a.dtype else w.to(tl.float32).to(a.dtype), a, total, input_precision="ieee")
    root = tl.sqrt(total * total + 4.0)
    total = tl.where(total < 0, 2.0 / (root - total), (total + root) * 0.5)  # NaN stays NaN
    inside = (row < outputs)[:, None] & (token < tokens)[None, :]
    tl.store(y + token.to(tl.int64)[None, :] * outputs + row[:, None], total, mask=inside)


def route_triton(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Makes one launch for each matrix; what is between them is fp32."""
    x = x.to(torch.promote_types(x.dtype, first.dtype))  # so that no weight is rounded
    x = x if x.stride(1) == 1 else x.contiguous()
    return _half(_half(x, first), second)


def _half(x: Tensor, weight: Tensor) -> Tensor:
    """s(weight x), fp32 [tokens, outputs]"""
    y = x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float32)
    if y.numel() == 0:
        return y
    tokens, outputs = y.shape
    tile = route_config(tokens, x.dtype)
    _route_kernel[cdiv(outputs, tile.block_outputs), cdiv(tokens, tile.block_tokens)](
        y, x, weight,
        x.stride(0), tokens, x.shape[1], outputs,
        BLOCK_TOKENS=tile.block_tokens, BLOCK_OUTPUTS=tile.block_outputs, BLOCK_INPUTS=tile.block_inputs,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return y
