"""An FFN that computes, for each token, only the experts that are active for it.

y[t] = down_bias + sum over the active experts e of token t of  down_e^T h_e,
h = act(up x + up_bias) or act(gate x + gate_bias) * (up x + up_bias).

On the CPU the C++ of cpp/expert_ffn.cpp reads the rows of active experts and no others, each once for all tokens that
use it. On CUDA two Triton kernels do so for few tokens; many tokens touch nearly every expert, and then the dense
product with a mask is the faster one, except for int8, where it would have to widen the weights first.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from .activations import ACTIVATIONS, activate
from .cost import Cost
from .dense_linear import dense_linear_torch
from .expert_weights import ExpertWeights as ExpertWeights  # callers find it here
from .int8_linear import TileConfig, int8_linear_torch
from .jit import HAS_TRITON, cdiv, constexpr, jit, tl
from .native import ISAS, native
from .native_expert_ffn import WEIGHTS, expert_ffn_native

Implementation = Literal["triton", "native", "torch"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PORTABLE_TOKENS = 4  # above it torch's matrix product beats code without vector instructions
DECODE_TOKENS = 16  # one tile of tokens; above it their union leaves little to skip


def expert_ffn(x: Tensor, weights: ExpertWeights, active: Tensor, expert_size: int, activation: str) -> Tensor:
    """y[t] = down_bias + sum over active experts e of token t of down_e^T h_e, h = act(up x) or act(gate x) * (up x).

    x: fp32, bf16 or fp16 [tokens, hidden]; active: bool [tokens, experts], experts = ceil(width / expert_size);
    activation: silu, relu, gelu (exact) or gelu_tanh. Sums are fp32; result: x.dtype [tokens, hidden].
    Moves `expert_ffn_cost(...).bytes`; under autograd it is `expert_ffn_torch`.
    Raises TypeError for dtypes, ValueError for shapes, devices, sizes and activations.
    """
    _check(x, weights, active, expert_size, activation)
    library = native() if x.is_cpu else None
    requires_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *weights.tensors))
    isa = ISAS[library.isa] if library else None
    device = "cpu" if x.is_cpu else x.device.type
    choice = choose_expert_ffn(device, x.shape[0], weights.dtype, requires_grad, isa, HAS_TRITON)
    if choice == "native" and library:
        return expert_ffn_native(x, weights, active, expert_size, activation, library)
    call = expert_ffn_triton if choice == "triton" else expert_ffn_torch
    return call(x, weights, active, expert_size, activation)


def expert_ffn_torch(x: Tensor, weights: ExpertWeights, active: Tensor, expert_size: int, activation: str) -> Tensor:
    """The same in plain torch, dense with a mask: it judges the kernels, carries gradients, and runs anywhere."""
    act, up = ACTIVATIONS[activation], _product(x, weights.up, weights.up_scale, weights.up_bias)
    if weights.gate is None:
        h = act(up)
    else:
        h = act(_product(x, weights.gate, weights.gate_scale, weights.gate_bias)) * up
    neurons = active.repeat_interleave(expert_size, dim=1)[:, : weights.width]
    return _product(h.masked_fill(~neurons, 0), weights.down.T, weights.down_scale, weights.down_bias)


def _product(x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    return dense_linear_torch(x, weight, bias) if scale is None else int8_linear_torch(x, weight, scale, bias)


def expert_ffn_cost(
    tokens: int, union_experts: int, pairs: int, expert_size: int, hidden: int, matrices: int, weight_bytes: int
) -> Cost:
    """`union_experts` are read once each, for `pairs` of a token and an expert; `matrices`: 2, or 3 when gated.

    `weight_bytes` is the size of one weight; the activations are counted in fp32. Scales, biases and the mask are
    left out: they are a thousandth of it.
    """
    row = matrices * hidden
    moved = union_experts * expert_size * row * weight_bytes + 2 * 4 * tokens * hidden
    return Cost(bytes=moved, flops=2 * pairs * expert_size * row)


def choose_expert_ffn(
    device: str, tokens: int, weights: torch.dtype, requires_grad: bool, isa: str | None, triton: bool
) -> Implementation:
    """Which implementation answers; `isa` is None where the C++ library is missing.

    How many experts are active is known on the device alone, and does not matter to the choice: with vector
    instructions the C++ beats torch's dense product at every share and every number of tokens.
    """
    if requires_grad or tokens == 0:
        return "torch"
    if device == "cuda" and triton:
        return "triton" if tokens <= DECODE_TOKENS or weights == torch.int8 else "torch"
    fits = weights in WEIGHTS and (isa != "portable" or tokens <= PORTABLE_TOKENS)
    return "native" if device == "cpu" and isa and fits else "torch"


def _check(x: Tensor, weights: ExpertWeights, active: Tensor, expert_size: int, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, it is {activation!r}")
    if expert_size < 1:
        raise ValueError(f"expert_size must be at least 1, it is {expert_size}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, bfloat16 or float16, it is {x.dtype}")
    if active.dtype != torch.bool:
        raise TypeError(f"active must be bool, it is {active.dtype}")
    if x.dim() != 2 or x.shape[1] != weights.hidden:
        raise ValueError(f"x must be [tokens, {weights.hidden}] for these weights, it is {list(x.shape)}")
    experts = cdiv(weights.width, expert_size)
    if active.shape != (x.shape[0], experts):
        raise ValueError(
            f"active must be [{x.shape[0]}, {experts}], experts of {expert_size} of {weights.width} neurons, "
            f"it is {list(active.shape)}"
        )
    for name, tensor in (("weights", weights.up), ("active", active)):
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device}, {name} on {tensor.device}")


def up_config(tokens: int, width: int, dtype: torch.dtype, gated: bool) -> TileConfig:
    """Few tokens: narrow tiles, so that the few active experts spread over the multiprocessors."""
    if dtype == torch.float32:  # below 64 rows, where no target rounds operands to feed tensor cores
        return TileConfig(16, 16, 64, 4, 3) if tokens <= DECODE_TOKENS else TileConfig(32, 32, 32, 4, 2)
    if tokens <= DECODE_TOKENS:
        return TileConfig(16, 32 if width >= 16384 else 16, 128 if gated else 256, 4, 4)
    return TileConfig(64 if tokens <= 64 else 128, 64, 64, 4 if tokens <= 64 else 8, 2 if gated else 3)


def down_config(tokens: int, hidden: int, dtype: torch.dtype) -> TileConfig:
    """`block_inputs` counts neurons, many in decode: a program owns its outputs and alone must keep memory busy.

    Rows are found through a list, which takes half of the stages.
    """
    if dtype == torch.float32:
        return TileConfig(16, 16, 128, 8, 4) if tokens <= DECODE_TOKENS else TileConfig(32, 32, 32, 4, 4)
    if tokens <= DECODE_TOKENS:
        return TileConfig(16, 32 if hidden >= 4096 else 16, 256, 8, 6)
    return TileConfig(64 if tokens <= 64 else 128, 64, 64, 4 if tokens <= 64 else 8, 4)


@jit
def _union_of(union, count, active, token, tokens, experts, BLOCK_EXPERTS: constexpr):  # type: ignore[no-untyped-def]
    """The experts that any of these tokens uses, in ascending order, and how many they are."""
    found = 0
    for start in range(0, experts, BLOCK_EXPERTS):
        expert = start + tl.arange(0, BLOCK_EXPERTS)
        inside = (token < tokens)[:, None] & (expert < experts)[None, :]
        on = tl.load(active + token.to(tl.int64)[:, None] * experts + expert[None, :], mask=inside, other=0)
        used = tl.max(on.to(tl.int32), axis=0)
        tl.store(union + found + tl.cumsum(used, axis=0) - used, expert, mask=used > 0)
        found += tl.sum(used, axis=0)
    tl.store(count, found)


@jit
def _up_kernel(  # type: ignore[no-untyped-def]
    # [tokens, width], [token blocks, experts], [token blocks], [tokens, hidden]
    h, union, count, x,
    # [width, hidden], the same, [width], [width], [width], [width], [tokens, experts]
    up, gate, up_scale, gate_scale, up_bias, gate_bias, active,
    stride_x, tokens, hidden, width, experts,
    GATED: constexpr, SCALED: constexpr, HAS_UP_BIAS: constexpr, HAS_GATE_BIAS: constexpr, ACTIVATION: constexpr,
    EXPERT_SIZE: constexpr, BLOCK_EXPERTS: constexpr,
    BLOCK_TOKENS: constexpr, BLOCK_OUTPUTS: constexpr, BLOCK_INPUTS: constexpr,
):  # fmt: skip
    block = tl.program_id(1)
    token = block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    if tl.program_id(0) == 0:  # first, so that its list is written while the others read weights
        _union_of(union + block.to(tl.int64) * experts, count + block, active, token, tokens, experts, BLOCK_EXPERTS)
        return
    neuron = (tl.program_id(0) - 1) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    inside = (neuron < width)[:, None] & (token < tokens)[None, :]
    mask_row = active + token.to(tl.int64)[None, :] * experts
    on = tl.load(mask_row + (neuron // EXPERT_SIZE)[:, None], mask=inside, other=0) != 0  # [neurons, tokens]
    used = tl.max(on.to(tl.int32), axis=1) > 0
    if tl.max(used.to(tl.int32), axis=0) == 0:
        return
    offset = neuron.to(tl.int64)[:, None] * hidden
    x_row = x + token.to(tl.int64)[None, :] * stride_x
    value = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.float32)
    gates = tl.zeros((BLOCK_OUTPUTS, BLOCK_TOKENS), dtype=tl.float32)
    for start in range(0, hidden, BLOCK_INPUTS):
        k = start + tl.arange(0, BLOCK_INPUTS)
        read = used[:, None] & (k < hidden)[None, :]
        a = tl.load(x_row + k[:, None], mask=(k < hidden)[:, None] & (token < tokens)[None, :], other=0.0)
        w = tl.load(up + offset + k[None, :], mask=read, other=0)
        value = tl.dot(w if w.dtype == a.dtype else w.to(tl.float32).to(a.dtype), a, value, input_precision="ieee")
        if GATED:
            g = tl.load(gate + offset + k[None, :], mask=read, other=0)
            gates = tl.dot(g if g.dtype == a.dtype else g.to(tl.float32).to(a.dtype), a, gates, input_precision="ieee")
    if SCALED:
        value = value * tl.load(up_scale + neuron, mask=neuron < width, other=0.0)[:, None]
    if HAS_UP_BIAS:
        value += tl.load(up_bias + neuron, mask=neuron < width, other=0.0).to(tl.float32)[:, None]
    if GATED:
        if SCALED:
            gates = gates * tl.load(gate_scale + neuron, mask=neuron < width, other=0.0)[:, None]
        if HAS_GATE_BIAS:
            gates += tl.load(gate_bias + neuron, mask=neuron < width, other=0.0).to(tl.float32)[:, None]
        value = activate(gates, ACTIVATION) * value
    else:
        value = activate(value, ACTIVATION)
    result = tl.where(on, value, 0.0).to(h.dtype.element_ty)
    tl.store(h + token.to(tl.int64)[None, :] * width + neuron[:, None], result, mask=inside)


@jit
def _down_kernel(  # type: ignore[no-untyped-def]
    # [tokens, hidden], [token blocks, experts], [token blocks], [tokens, width], [width, hidden], [hidden], [hidden]
    y, union, count, h, down, scale, bias,
    tokens, hidden, width, experts,
    SCALED: constexpr, HAS_BIAS: constexpr, EXPERT_SIZE: constexpr,
    BLOCK_TOKENS: constexpr, BLOCK_OUTPUTS: constexpr, BLOCK_INPUTS: constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    block = tl.program_id(1)
    token = block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    union += block.to(tl.int64) * experts
    h_row = h + token.to(tl.int64)[:, None] * width
    rows = tl.load(count + block) * EXPERT_SIZE
    total = tl.zeros((BLOCK_TOKENS, BLOCK_OUTPUTS), dtype=tl.float32)
    for start in range(0, rows, BLOCK_INPUTS):
        row = start + tl.arange(0, BLOCK_INPUTS)
        neuron = tl.load(union + row // EXPERT_SIZE, mask=row < rows, other=0) * EXPERT_SIZE + row % EXPERT_SIZE
        inside = (row < rows) & (neuron < width)
        a = tl.load(h_row + neuron[None, :], mask=(token < tokens)[:, None] & inside[None, :], other=0.0)
        w_row = down + neuron.to(tl.int64)[:, None] * hidden
        w = tl.load(w_row + column[None, :], mask=inside[:, None] & (column < hidden)[None, :], other=0)
        total = tl.dot(a, w if w.dtype == a.dtype else w.to(tl.float32).to(a.dtype), total, input_precision="ieee")
    if SCALED:
        total = total * tl.load(scale + column, mask=column < hidden, other=0.0)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + column, mask=column < hidden, other=0.0).to(tl.float32)[None, :]
    tl.store(
        y + token.to(tl.int64)[:, None] * hidden + column[None, :],
        total.to(y.dtype.element_ty),
        mask=(token < tokens)[:, None] & (column < hidden)[None, :],
    )


def expert_ffn_triton(x: Tensor, weights: ExpertWeights, active: Tensor, expert_size: int, activation: str) -> Tensor:
    """Makes two launches, up and down, without host synchronization, so that a CUDA graph can capture them."""
    x = x if x.stride(1) == 1 else x.contiguous()
    y = x.new_empty(x.shape)
    if y.numel() == 0:
        return y
    tokens, width, hidden = x.shape[0], weights.width, weights.hidden
    up, down = up_config(tokens, width, x.dtype, weights.gate is not None), down_config(tokens, hidden, x.dtype)
    blocks, experts = cdiv(tokens, up.block_tokens), active.shape[1]
    h = x.new_empty(tokens, width)
    union, count = (torch.empty(n, dtype=torch.int32, device=x.device) for n in (blocks * experts, blocks))
    mask = active.contiguous().view(torch.uint8)
    _up_kernel[cdiv(width, up.block_outputs) + 1, blocks](
        h, union, count, x,
        *[weights.up if t is None else t for t in (weights.up, weights.gate, weights.up_scale, weights.gate_scale)],
        *[weights.up if t is None else t for t in (weights.up_bias, weights.gate_bias)], mask,
        x.stride(0), tokens, hidden, width, experts,
        GATED=weights.gate is not None, SCALED=weights.up_scale is not None,
        HAS_UP_BIAS=weights.up_bias is not None, HAS_GATE_BIAS=weights.gate_bias is not None,
        ACTIVATION=activation, EXPERT_SIZE=expert_size, BLOCK_EXPERTS=128,
        **_launch(up),
    )  # fmt: skip
    _down_kernel[cdiv(hidden, down.block_outputs), blocks](
        y, union, count, h, weights.down,
        *[weights.down if t is None else t for t in (weights.down_scale, weights.down_bias)],
        tokens, hidden, width, experts,
        SCALED=weights.down_scale is not None, HAS_BIAS=weights.down_bias is not None, EXPERT_SIZE=expert_size,
        **_launch(down),
    )  # fmt: skip
    return y


def _launch(tile: TileConfig) -> dict[str, Any]:
    return {
        "BLOCK_TOKENS": tile.block_tokens,
        "BLOCK_OUTPUTS": tile.block_outputs,
        "BLOCK_INPUTS": tile.block_inputs,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
