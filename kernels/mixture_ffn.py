"""A mixture of experts, of which each token takes a few:

    y[t] = sum over the experts e that t takes of part[t, e] down_e (act(gate_e x_t) * (up_e x_t))

int8 weights are multiplied by activations in two digits of int8, exactly, as in digit_linear.py; h has digits of its
own for each token and expert. What experts made is added up in their order, so that with int8 weights a row has the
same bits alone and in any batch. On CUDA, kernels/mixture/ reads an expert once for a block of the tokens that take it.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .activations import ACTIVATIONS
from .cost import Cost
from .graded.digits import digits_of
from .jit import HAS_TRITON
from .mixture.launches import mixture_ffn_triton
from .mixture.weights import MixtureWeights as MixtureWeights  # callers find it here
from .mixture.weights import takes

Implementation = Literal["triton", "torch"]


def mixture_ffn(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor, activation: str) -> Tensor:
    """The equation above. x: floating point [tokens, hidden] -> the same shape and dtype. No gradient passes.

    places: int64 [tokens, most], the experts of a token, rising; parts: fp32, the same shape, 0 for those that it does
    not take after all. Raises TypeError for dtypes, ValueError for shapes, devices and activations.
    """
    _check(x, weights, places, parts, activation)
    choice = choose_mixture_ffn("cpu" if x.is_cpu else x.device.type, len(x), weights, HAS_TRITON)
    call = mixture_ffn_triton if choice == "triton" else mixture_ffn_torch
    return call(x.detach(), weights, places, parts, activation)


def choose_mixture_ffn(device: str, tokens: int, weights: MixtureWeights, triton: bool) -> Implementation:
    """Which implementation answers."""
    fits = takes(weights.hidden, weights.width, weights.up.dtype)
    return "triton" if device == "cuda" and triton and fits and tokens else "torch"


def mixture_ffn_torch(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor, activation: str) -> Tensor:
    """The same in plain torch, int8 in fp64, where all these integers are exact: it judges, and runs anywhere."""
    act, y = ACTIVATIONS[activation], torch.zeros_like(x, dtype=torch.float32)
    for e in range(weights.experts):
        part = torch.where(places == e, parts, 0.0).sum(1)
        rows = part.nonzero()[:, 0]
        gate, up = (_product(x[rows], each, scale, e) for each, scale in _of_up(weights))
        made = _product(act(gate) * up, weights.down, weights.down_scale, e)
        y = y.index_add(0, rows, made.float() * part[rows].unsqueeze(1))
    return y.to(x.dtype)


def mixture_ffn_cost(pairs: int, experts: int, tokens: int, weights: MixtureWeights) -> Cost:
    """`experts` are read once each, for `pairs` of a token and an expert; activations are counted in fp32."""
    values = 3 * weights.width * weights.hidden
    moved = experts * values * weights.up.element_size() + 2 * 4 * tokens * weights.hidden
    return Cost(bytes=moved, flops=2 * (1 + weights.is_int8) * pairs * values)


def _of_up(weights: MixtureWeights) -> tuple[tuple[Tensor, Tensor | None], ...]:
    return (weights.gate, weights.gate_scale), (weights.up, weights.up_scale)


def _product(x: Tensor, matrices: Tensor, scales: Tensor | None, expert: int) -> Tensor:
    if scales is None:
        return functional.linear(x, matrices[expert].to(x.dtype))
    digits = digits_of(x, torch.zeros(len(x), device=x.device))
    doubled = 2 * functional.linear(digits.q.double(), matrices[expert].double())
    return doubled.float() * (digits.step * 0.5 * scales[expert])


def _check(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor, activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, it is {activation!r}")
    if not x.is_floating_point() or places.dtype != torch.int64 or parts.dtype != torch.float32:
        raise TypeError(
            f"x must be floating point, places int64 and parts float32, they are {x.dtype}, {places.dtype} and "
            f"{parts.dtype}"
        )
    if x.dim() != 2 or x.shape[1] != weights.hidden:
        raise ValueError(f"x must be [tokens, {weights.hidden}] for these weights, it is {list(x.shape)}")
    if places.dim() != 2 or len(places) != len(x) or parts.shape != places.shape:
        raise ValueError(
            f"places and parts must be [{len(x)}, experts of a token], they are {list(places.shape)} and "
            f"{list(parts.shape)}"
        )
    for name, tensor in (("weights", weights.up), ("places", places), ("parts", parts)):
        if tensor.device != x.device:
            raise ValueError(f"x is on {x.device}, {name} on {tensor.device}")
