"""The calls into cpp/expert_ffn.cpp."""

import torch
from torch import Tensor

from .expert_weights import ExpertWeights
from .native import Native

WEIGHTS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # the codes of cpp/expert_ffn.cpp
CODES = ("silu", "relu", "gelu", "gelu_tanh", "squareplus")  # the order of `enum Activation`


def expert_ffn_native(
    x: Tensor, weights: ExpertWeights, active: Tensor, expert_size: int, activation: str, library: Native
) -> Tensor:
    """`expert_ffn` on the CPU, for weights in fp32, bf16 or int8; the caller has checked all of it.

    A row of the result has the same bits alone and in any batch, on any number of threads.
    """
    source, mask = x.float().contiguous(), active.contiguous()  # named, so that they live as long as the call
    vectors = {name: vector.float() for name, vector in weights.vectors.items()}
    y = source.new_empty(source.shape)
    library.library.moesaic_expert_ffn(
        source.data_ptr(),
        mask.data_ptr(),
        weights.up.data_ptr(),
        None if weights.gate is None else weights.gate.data_ptr(),
        weights.down.data_ptr(),
        *[_pointer(vectors, f"{matrix}_scale") for matrix in ("up", "gate", "down")],
        *[_pointer(vectors, f"{matrix}_bias") for matrix in ("up", "gate", "down")],
        y.data_ptr(),
        source.shape[0],
        weights.hidden,
        weights.width,
        expert_size,
        torch.get_num_threads(),
        library.isa,
        WEIGHTS[weights.dtype],
        CODES.index(activation),
    )
    return y if y.dtype == x.dtype else y.to(x.dtype)


def _pointer(vectors: dict[str, Tensor], name: str) -> int | None:
    return vectors[name].data_ptr() if name in vectors else None


def activated_rows_native(x: Tensor, weight: Tensor, activation: str, library: Native) -> Tensor:
    """act(x weight^T), fp32 [tokens, outputs] of x fp32 [tokens, inputs], by the same sums as `expert_ffn_native`."""
    x = x.contiguous()
    tokens, outputs = x.shape[0], weight.shape[0]
    y = x.new_empty(outputs, tokens)
    library.library.moesaic_rows(
        x.data_ptr(),
        weight.data_ptr(),
        y.data_ptr(),
        tokens,
        x.shape[1],
        outputs,
        torch.get_num_threads(),
        library.isa,
        WEIGHTS[weight.dtype],
        CODES.index(activation),
    )
    return y.T
