"""What else multiplies by int8 weights, or by the same ones widened: the peers of every linear."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.cost import Cost
from ..rounds import DEVICE, Round, rotated
from .point import Point

Call = Callable[[Tensor], Tensor]
Prepare = Callable[[Tensor, Tensor], Call]  # int8 weights [outputs, inputs] and their scales
SHAPES = ((1536, 576, 1), (1536, 576, 8), (49152, 576, 1))  # outputs, inputs, tokens: of SmolLM2-135M


def torch_linear(dtype: torch.dtype) -> Prepare:
    """The same weights in floating point."""

    def prepare(weight: Tensor, scale: Tensor) -> Call:
        dense = (weight * scale[:, None]).to(dtype)
        return lambda x: functional.linear(x, dense)

    return prepare


def torch_int8pack(weight: Tensor, scale: Tensor) -> Call:
    """int8 weights under bf16 activations."""
    narrow = scale.bfloat16()
    return lambda x: torch._weight_int8pack_mm(x, weight, narrow)


def torch_dynamic_int8(weight: Tensor, scale: Tensor) -> Call:
    """Quantizes activations, too, eight bits of them: a larger error than two digits have."""
    outputs, inputs = weight.shape
    zeros = torch.zeros(outputs, dtype=torch.int64)
    linear = import_module("torch.ao.nn.quantized.dynamic").Linear(inputs, outputs, bias_=False)
    dense = weight * scale[:, None]
    linear.set_weight_bias(torch.quantize_per_channel(dense, scale.double(), zeros, 0, torch.qint8), None)
    return lambda x: linear(x)


def bitsandbytes_int8(weight: Tensor, scale: Tensor) -> Call:
    outputs, inputs = weight.shape
    linear = import_module("bitsandbytes.nn").Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
    linear.load_state_dict({"weight": weight * scale[:, None]})
    linear = linear.to(weight.device)
    return lambda x: linear(x)


FP32, BF16 = torch.float32, torch.bfloat16
PEERS: Mapping[str, tuple[Prepare, torch.dtype, int]] = {  # with the dtype of activations, and bytes of a weight
    "torch dynamic int8": (torch_dynamic_int8, FP32, 1),
    "torch linear fp32": (torch_linear(FP32), FP32, 4),
    "torch linear bf16": (torch_linear(BF16), BF16, 2),
}


def linear_points(
    ours: Mapping[str, tuple[Prepare, torch.dtype, int]],
    cost: Callable[[int, int, int], Cost],
    shapes: tuple[tuple[int, int, int], ...] = SHAPES,
) -> Iterator[Point]:
    """A linear beside PEERS. cost: of tokens, inputs and outputs."""
    for outputs, inputs, tokens in shapes:
        rounds = {
            name: partial(_round, *contestant, outputs, inputs, tokens)
            for name, contestant in {**ours, **PEERS}.items()
        }
        yield Point(f"{outputs}x{inputs}, {tokens} tokens", cost(tokens, inputs, outputs), rounds)


def _round(prepare: Prepare, dtype: torch.dtype, weight_bytes: int, outputs: int, inputs: int, tokens: int) -> Round:
    random = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=random, dtype=torch.int8).to(DEVICE)
    scale = (torch.rand(outputs, generator=random) / 127).to(DEVICE)
    x = torch.randn(tokens, inputs, generator=random).to(DEVICE, dtype)

    def copy() -> Callable[[], Tensor]:
        call = prepare(weight.clone(), scale)
        return lambda: call(x)

    return rotated(copy, weight.numel() * weight_bytes)
