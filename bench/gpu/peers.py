"""Who is measured in section 4: our kernels and what else computes the same, each with how it is made ready.

A call takes activations and, where experts, neurons or bits are chosen, who is: bool [tokens, experts] or thresholds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels import digit_triton
from ...kernels.dense_linear import dense_linear
from ...kernels.digit_linear import digit_linear, pack_digits
from ...kernels.expert_ffn import expert_ffn
from ...kernels.graded import launches
from ...kernels.graded.layout import pack_graded
from ...kernels.graded.worth import worth_of
from ...kernels.graded_linear import GradedWeights, graded_linear
from ...kernels.int8_dynamic_linear import int8_dynamic_linear, quantize_tokens
from ...kernels.int8_linear import int8_linear
from ...kernels.plane_ffn import PlaneWeights, pack, packed_weights, plane_ffn
from ...kernels.planes.coarse import CoarseFit
from ...kernels.planes.launches import plane_ffn_triton
from ...kernels.route import route_scores, route_scores_torch, squareplus
from .operands import FFNWeights, LinearWeights, activated
from .sizes import Width

Call = Callable[[Tensor, Tensor | None], Tensor]
Kind = Literal["linear", "digits", "graded", "ffn", "experts", "planes", "route"]
FP32, BF16 = torch.float32, torch.bfloat16
PLANE_BITS, REFINED_BITS = 4, 6
ROUTER_WIDTH = 128
FEW = digit_triton.MOST_TOKENS  # rows of a decode step
GRADED_SHARES = (0.55, 1.0, 0.4)  # of the bits
_WORTH_ROWS = 256  # random rows are worth much the same
INT_MM_ROWS = 32  # CUDA's integer product takes more than 16


@dataclass(frozen=True)
class Contestant:
    """prepare: a call over weights of its own. weight_bytes: of one weight. ours: what it cannot do is a failure.

    kind: what it computes; experts and planes are FFNs of which a share is computed, graded a linear whose bits are
    read in part. seconds: the most it may take.
    few: only in the first half of the numbers of tokens, as each shape is compiled for itself.
    most_tokens: more are not its business. shares: which, where not those of all.
    """

    name: str
    kind: Kind
    dtype: torch.dtype
    weight_bytes: int
    prepare: Callable[..., Call]
    ours: bool = False
    seconds: float = 12.0
    few: bool = False
    most_tokens: int | None = None
    shares: tuple[float, ...] = ()

    @property
    def has_shares(self) -> bool:
        return self.kind in ("experts", "planes", "graded")

    @property
    def baseline(self) -> str:
        """Whose time its ratio is of: torch in bf16, dense."""
        return LINEAR if self.is_linear else ROUTE if self.kind == "route" else FFN

    @property
    def is_linear(self) -> bool:
        return self.kind in ("linear", "digits", "graded")


LINEAR, FFN, ROUTE = "torch linear bf16", "torch ffn bf16", "torch route"


def linear(dtype: torch.dtype) -> Callable[[LinearWeights], Call]:
    def prepare(weights: LinearWeights) -> Call:
        dense = weights.dense(dtype)
        return lambda x, _: functional.linear(x, dense)

    return prepare


def narrow_linear(weights: LinearWeights) -> Call:
    """bf16 weights under fp32 activations."""
    dense = weights.dense(BF16)
    return lambda x, _: dense_linear(x, dense)


def our_int8(weights: LinearWeights) -> Call:
    own = weights.copy()
    return lambda x, _: int8_linear(x, own.weight, own.scale)


def our_int8_dynamic(weights: LinearWeights) -> Call:
    own = weights.copy()
    return lambda x, _: int8_dynamic_linear(x, own.weight, own.scale)


def our_digits(weights: LinearWeights) -> Call:
    own = pack_digits(weights.weight, weights.scale)
    return lambda x, _: digit_linear(x, own)


def graded_weights(weights: LinearWeights) -> GradedWeights:
    return GradedWeights(
        pack_graded(weights.weight),
        weights.scale,
        worth_of(weights.weight[:_WORTH_ROWS], weights.scale[:_WORTH_ROWS], 1.0),
    )


def our_graded(weights: LinearWeights) -> Call:
    own = graded_weights(weights)

    def call(x: Tensor, thresholds: Tensor | None) -> Tensor:
        if thresholds is None:
            raise ValueError("inputs are read above thresholds")
        return graded_linear(x, own, thresholds).y

    return call


def int8pack(weights: LinearWeights) -> Call:
    own, scale = weights.weight.clone(), weights.scale.bfloat16()
    return lambda x, _: torch._weight_int8pack_mm(x, own, scale)


def int_mm(weights: LinearWeights) -> Call:
    """The bare integer product with scales, of activations that are rounded as they come."""
    own = weights.copy()

    def call(x: Tensor, _: Tensor | None) -> Tensor:
        integers, token_scale = quantize_tokens(x)
        rows = functional.pad(integers.to(torch.int8), (0, 0, 0, max(0, INT_MM_ROWS - len(x))))
        return (torch._int_mm(rows, own.weight.t())[: len(x)] * (token_scale * own.scale)).to(x.dtype)

    return call


def bitsandbytes(weights: LinearWeights) -> Call:
    outputs, inputs = weights.weight.shape
    module = import_module("bitsandbytes.nn").Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
    module.load_state_dict({"weight": weights.dense(FP32)})
    module = module.to(weights.weight.device)
    return lambda x, _: module(x)


def _widened(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return functional.linear(x, weight.to(x.dtype)) * scale.to(x.dtype)


def compiled(weights: LinearWeights) -> Call:
    """Widens inside of the product by torch.compile, as gpt-fast does."""
    own = weights.copy()
    call = _compiled_once()
    return lambda x, _: call(x, own.weight, own.scale)


def _compiled_once() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if not _COMPILED:
        torch._dynamo.config.recompile_limit = 64  # beyond it nothing would be compiled, and nobody told
        _COMPILED.append(torch.compile(_widened, dynamic=False))
    return _COMPILED[0]


_COMPILED: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = []


def dense_ffn(dtype: torch.dtype) -> Callable[[FFNWeights, Width], Call]:
    def prepare(weights: FFNWeights, width: Width) -> Call:
        first, second = weights.joined().dense(dtype), weights.output().dense(dtype)
        return lambda x, _: functional.linear(activated(functional.linear(x, first), width), second)

    return prepare


def int8_ffn(weights: FFNWeights, width: Width) -> Call:
    first, second = weights.joined(), weights.output()

    def call(x: Tensor, _: Tensor | None) -> Tensor:
        h = activated(int8_linear(x, first.weight, first.scale), width)
        return int8_linear(h, second.weight, second.scale)

    return call


def experts(dtype: torch.dtype | None) -> Callable[[FFNWeights, Width], Call]:
    def prepare(weights: FFNWeights, width: Width) -> Call:
        own = weights.experts(dtype)

        def call(x: Tensor, active: Tensor | None) -> Tensor:
            if active is None:
                raise ValueError("experts are computed for those who are active")
            return expert_ffn(x, own, active, width.expert, width.activation)

        return call

    return prepare


def plane_weights(weights: FFNWeights, width: Width) -> PlaneWeights:
    """Weights whose high bits are taken at their word."""
    scored = [each for each in (weights.gate, weights.up) if each is not None]
    importance = (weights.down * weights.down_scale).norm(dim=1)
    fit = CoarseFit.unfitted([each.scale for each in scored], [None] * len(scored), importance)
    gate = weights.gate.copy() if weights.gate else None
    found = PlaneWeights(
        weights.up.weight.clone(), weights.down.t().contiguous(), weights.up.scale, weights.down_scale, fit,
        gate=gate.weight if gate else None, gate_scale=gate.scale if gate else None, refined_bits=REFINED_BITS,
    )  # fmt: skip
    return packed_weights(found, PLANE_BITS)


def planes(weights: FFNWeights, width: Width) -> Call:
    own = plane_weights(weights, width)

    def call(x: Tensor, thresholds: Tensor | None) -> Tensor:
        if thresholds is None:
            raise ValueError("neurons are computed above thresholds")
        return plane_ffn(x, own, thresholds, PLANE_BITS, width.activation).y

    return call


def plane_launches(weights: FFNWeights, width: Width) -> Call:
    """As a decode step launches it; where there is no GPU, as a CPU computes it."""
    own = plane_weights(weights, width)
    packed = own.packed or pack(own, PLANE_BITS)

    def call(x: Tensor, thresholds: Tensor | None) -> Tensor:
        if thresholds is None:
            raise ValueError("neurons are computed above thresholds")
        if x.is_cpu:
            return plane_ffn(x, own, thresholds, PLANE_BITS, width.activation).y
        return plane_ffn_triton(x, packed, thresholds, width.activation)[0]

    return call


@dataclass(frozen=True)
class RouterWeights:
    """first: [router_width, hidden], second: [experts, router_width]."""

    first: Tensor
    second: Tensor

    @classmethod
    def random(cls, width: Width, device: str) -> "RouterWeights":
        first = torch.randn(ROUTER_WIDTH, width.hidden, device=device) / width.hidden**0.5
        second = torch.randn(width.experts, ROUTER_WIDTH, device=device) / ROUTER_WIDTH**0.5
        return cls(first.to(BF16), second.to(BF16))

    def exact(self, x: Tensor) -> Tensor:
        """The scores in fp64."""
        return squareplus(squareplus(x.double() @ self.first.double().T) @ self.second.double().T)


def our_route(weights: RouterWeights) -> Call:
    first, second = weights.first.clone(), weights.second.clone()
    return lambda x, _: route_scores(x, first, second)


def torch_route(weights: RouterWeights) -> Call:
    first, second = weights.first.clone(), weights.second.clone()
    return lambda x, _: route_scores_torch(x, first, second)


CONTESTANTS = (
    Contestant(FFN, "ffn", BF16, 2, dense_ffn(BF16), False, 16),
    Contestant("expert_ffn bf16", "experts", BF16, 2, experts(BF16), True, 30),
    Contestant("expert_ffn bf16, int8 weights", "experts", BF16, 1, experts(None), True, 30),
    Contestant(LINEAR, "linear", BF16, 2, linear(BF16), False, 14),
    Contestant("int8_linear bf16", "linear", BF16, 1, our_int8, True, 20),
    Contestant("digit_linear bf16", "digits", BF16, 1, our_digits, True, 15, most_tokens=FEW),
    Contestant(
        "graded_linear bf16", "graded", BF16, 1, our_graded, True, 25, False, launches.MOST_TOKENS, GRADED_SHARES
    ),
    Contestant("int8_linear ffn bf16", "ffn", BF16, 1, int8_ffn, True, 20),
    Contestant("plane_ffn in launches bf16", "planes", BF16, 1, plane_launches, True, 25, most_tokens=FEW),
    Contestant("plane_ffn bf16", "planes", BF16, 1, planes, True, 15),
    Contestant("int8_linear fp32", "linear", FP32, 1, our_int8, True, 15),
    Contestant("int8_dynamic_linear bf16", "linear", BF16, 1, our_int8_dynamic, True),
    Contestant(ROUTE, "route", BF16, 2, torch_route, False, 8),
    Contestant("route bf16", "route", BF16, 2, our_route, True),
    Contestant("torch int8pack bf16", "linear", BF16, 1, int8pack, False, 8),
    Contestant("torch int_mm bf16", "linear", BF16, 1, int_mm, False, 8),
    Contestant("bitsandbytes int8 bf16", "linear", BF16, 1, bitsandbytes),
    Contestant("torch linear fp32", "linear", FP32, 4, linear(FP32), False, 8),
    Contestant("dense_linear fp32, bf16 weights", "linear", FP32, 2, narrow_linear, True, 8),
    Contestant("torch ffn fp32", "ffn", FP32, 4, dense_ffn(FP32)),
    Contestant("expert_ffn fp32", "experts", FP32, 4, experts(FP32), True, 20),
    Contestant(f"{FFN}, again", "ffn", BF16, 2, dense_ffn(BF16)),  # what differs from the first is noise
    Contestant("torch compiled int8 bf16", "linear", BF16, 1, compiled, False, 40, few=True),
)  # in the order of worth, each after the one that its ratio is of
