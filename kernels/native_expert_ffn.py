"""The calls into cpp/expert_ffn.cpp."""

import ctypes

import torch
from torch import Tensor

from .expert_weights import ExpertWeights
from .native import Native

WEIGHTS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # the codes of cpp/expert_ffn.cpp
MATRICES = ("up", "gate", "down")
CODES = ("silu", "relu", "gelu", "gelu_tanh", "squareplus")  # the order of `enum Activation`


class Layer(ctypes.Structure):
    """`struct ExpertLayer` of cpp/expert_ffn.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in MATRICES),
        *((f"{name}_{vector}", ctypes.c_void_p) for vector in ("scale", "bias") for name in MATRICES),
        *((name, ctypes.c_int64) for name in ("hidden", "width", "expert_size", "weight", "activation")),
    ]


class RoutedLayer(ctypes.Structure):
    """`struct RoutedLayer` of cpp/routed_ffn.cpp."""

    _fields_ = [
        ("ffn", Layer),
        *((name, ctypes.c_void_p) for name in ("first", "second")),
        *((name, ctypes.c_int64) for name in ("router_width", "router_weight")),
    ]


def layer_of(weights: ExpertWeights, vectors: dict[str, Tensor], expert_size: int, activation: str) -> Layer:
    """The addresses of weights, and of their scales and biases in fp32: valid as long as they live."""
    matrices = [getattr(weights, name) for name in MATRICES]
    return Layer(
        *(None if each is None else each.data_ptr() for each in matrices),
        *(_pointer(vectors, f"{name}_{vector}") for vector in ("scale", "bias") for name in MATRICES),
        weights.hidden,
        weights.width,
        expert_size,
        WEIGHTS[weights.dtype],
        CODES.index(activation),
    )


def expert_ffn_native(
    x: Tensor, weights: ExpertWeights, active: Tensor, expert_size: int, activation: str, library: Native
) -> Tensor:
    """`expert_ffn` on the CPU, for weights in fp32, bf16 or int8; the caller has checked all of it.

    A row of the result has the same bits alone and in any batch, on any number of threads.
    """
    source, mask = x.float().contiguous(), active.contiguous()  # named, so that they live as long as the call
    vectors = {name: vector.float() for name, vector in weights.vectors.items()}
    layer, y = layer_of(weights, vectors, expert_size, activation), source.new_empty(source.shape)
    library.library.moesaic_expert_ffn(
        ctypes.byref(layer),
        source.data_ptr(),
        mask.data_ptr(),
        y.data_ptr(),
        source.shape[0],
        torch.get_num_threads(),
        library.isa,
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
