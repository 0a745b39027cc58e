"""A feed-forward network that computes, for each token, only the experts that pass their layer's threshold.

At the full tier, and for whoever names none, it is the dense network: permuting neurons changes no function. A tier
is a row of `thresholds`; what it leaves out may be replaced by a constant, a row of `compensation`. Between two tiers
both lie on the line between the rows.
"""

import math
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ..kernels.expert_ffn import ExpertWeights, expert_ffn
from ..kernels.plane_ffn import PlaneWeights, packed_weights, plane_ffn, plane_scores
from ..kernels.planes.bytes import FFNShape, constant_bytes, plane_ffn_bytes
from ..kernels.planes.choice import NeuronScores
from ..kernels.planes.coarse import CoarseFit
from ..kernels.route import route_scores
from .compute import Compute, Prices
from .ffn import FFN
from .linear import Int8Linear, Linear, TensorModule, dense_weight, replace_tensor
from .spec import BIT_PLANES, FFNSpec


class NormRouter(TensorModule):
    """Foresees the norm of what each expert puts out, kernels/route.py: [.., hidden] -> [.., experts]."""

    def __init__(self, hidden_size: int, width: int, num_experts: int) -> None:
        super().__init__()
        self.first = Linear(hidden_size, width, bias=False)
        self.second = Linear(width, num_experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores = route_scores(x.flatten(0, -2), self.first.weight, self.second.weight)
        return scores.view(*x.shape[:-1], -1)


class PlaneFit(TensorModule):
    """What the high bits of int8 weights are worth: kernels/planes/coarse.py. Buffers in bf16."""

    scale: Tensor
    bias: Tensor
    error: Tensor
    importance: Tensor

    def __init__(self, width: int, scored: int) -> None:
        super().__init__()
        for name in ("scale", "bias", "error"):
            self.register_buffer(name, torch.empty(scored, width, dtype=torch.bfloat16))
        self.register_buffer("importance", torch.empty(width, dtype=torch.bfloat16))

    def found(self) -> CoarseFit:
        return CoarseFit(self.scale, self.bias, self.error, self.importance)

    def take(self, fit: CoarseFit) -> None:
        self.scale, self.bias, self.error, self.importance = fit.tensors


class ExpertFFN(FFN):
    """The twin of `FFN` with experts. thresholds: fp32 [tiers, 2]; compensation: fp32 [tiers, hidden].

    An expert is computed where its score is above the first threshold; with bit planes the second one is for doubts:
    kernels/planes/choice.py. Row 0 is that of the full tier: no more than the end of a line.
    """

    thresholds: Tensor
    compensation: Tensor

    def __init__(self, hidden_size: int, spec: FFNSpec, num_tiers: int) -> None:
        super().__init__(hidden_size, spec)
        self.experts, self.hidden_size = spec.experts, hidden_size
        self.num_experts = spec.experts.count(spec.width)
        self.by_planes = spec.experts.router == BIT_PLANES
        self.router = None if self.by_planes else NormRouter(hidden_size, spec.experts.router_width, self.num_experts)
        self.fit = PlaneFit(spec.width, 1 + spec.gated) if self.by_planes else None
        self.register_buffer("thresholds", torch.empty(num_tiers, 2, dtype=torch.float32))
        self.register_buffer("compensation", torch.empty(num_tiers, hidden_size, dtype=torch.float32))
        self.planes: PlaneWeights | None = None
        self.tiles: ExpertWeights | None = None

    @classmethod
    def of(cls, ffn: FFN, hidden_size: int, spec: FFNSpec, num_tiers: int) -> Self:
        """The twin of a loaded dense FFN, over the same weights; its router and thresholds are still to be found."""
        with torch.device("meta"):
            twin = cls(hidden_size, spec, num_tiers)
        twin.gate, twin.up, twin.down, twin.packed = ffn.gate, ffn.up, ffn.down, ffn.packed
        twin.thresholds, twin.compensation = torch.zeros(num_tiers, 2), torch.zeros(num_tiers, hidden_size)
        if twin.fit is not None:
            twin.fit.take(twin._unfitted())
        twin.prepare()
        return twin.requires_grad_(False).eval()

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        if compute is None or compute.all_full:
            return super().forward(x, compute)
        if not compute.num_full:
            return self._sparse(x, compute)
        y = torch.empty_like(x)
        compute.note_whole(self.whole_bytes, self.width, x.shape[1], full_alone=True)
        y[compute.full_rows] = self.dense(x[compute.full_rows])
        y[compute.sparse_rows] = self._sparse(x[compute.sparse_rows], compute)
        return y

    @property
    def fixed_bytes(self) -> float:
        """What a lone token reads before a neuron is computed: the router's own weights, and the constant."""
        return self._prices.fixed

    @property
    def down_bytes(self) -> float:
        """int8 rows of down, with bit planes: what computing every neuron reads beside the planes."""
        return self._plane_bytes(self.width, 0) - self._plane_bytes(0, 0)

    @property
    def low_bytes(self) -> float:
        """With bit planes: what refining every neuron reads."""
        return self._plane_bytes(0, self.width) - self._plane_bytes(0, 0)

    @property
    def ratio(self) -> float:
        """With bit planes: of the second threshold to the first, at which a byte has one price."""
        return math.sqrt(self.low_bytes / self.down_bytes)

    @property
    def expert_sizes(self) -> Tensor | None:
        """Neurons of each expert, fp64 [experts]; None where the last is as large as the others."""
        sizes = torch.full((self.num_experts,), float(self.experts.size), dtype=torch.float64)
        sizes[-1] -= self.num_experts * self.experts.size - self.width
        return None if self.width % self.experts.size == 0 else sizes

    def scores(self, x: Tensor) -> Tensor:
        """What the first threshold is compared with to say whether anything of an expert is read that is its own: fp32
        [.., experts] for x [.., hidden].
        """
        return self._routed(x) if self.planes is None else self.plane_scores(x).touched_below(self.ratio)

    def plane_scores(self, x: Tensor) -> NeuronScores:
        """With bit planes: what decides at any thresholds, fp32 [.., experts] each."""
        if self.planes is None:
            raise TypeError("a trained router has no planes")
        bits, size = self.experts.router_bits, self.experts.size
        found = plane_scores(x.flatten(0, -2), self.planes, bits, self.activation_name, size)
        return NeuronScores(*(each.view(*x.shape[:-1], -1) for each in found))

    def set_fit(self, fit: CoarseFit) -> None:
        """What the high bits are worth from now on."""
        if self.fit is None:
            raise TypeError("only bit planes are fitted")
        self.fit.take(fit)
        self.planes = self._planes()

    def dense(self, x: Tensor) -> Tensor:
        if self.tiles is None:
            return super().dense(x)
        every = torch.ones(x.shape[:-1].numel(), self.num_experts, dtype=torch.bool, device=x.device)
        return expert_ffn(x.flatten(0, -2), self.tiles, every, self.experts.size, self.activation_name).view(x.shape)

    def prepare(self) -> None:
        super().prepare()
        if self.by_planes:
            self.planes = self._planes()
            fixed, active, fine = (self._plane_bytes(*counts) for counts in ((0, 0), (1, 0), (0, 1)))
            self._plane_prices = Prices(fixed + constant_bytes(self.hidden_size), active - fixed, fine - fixed)
        elif self._is_uniform():
            self.tiles = self._tiles()

    def _is_uniform(self) -> bool:
        """Whether one kernel can compute it: linears of one kind and dtype, activations as they are."""
        linears = [each for each in (self.up, self.gate, self.down) if each is not None]
        kinds = {(type(each), each.weight.dtype) for each in linears if isinstance(each, Linear | Int8Linear)}
        return len(kinds) == 1 and kinds.pop()[0] in (Linear, Int8Linear)

    def _tiles(self) -> ExpertWeights:
        """Weights in expert order, down neuron-major: the linear keeps a view of it, so that no memory is spent."""
        parts: dict[str, Tensor | None] = {}
        for name, linear in (("up", self.up), ("gate", self.gate), ("down", self.down)):
            if isinstance(linear, Linear | Int8Linear):
                scale = linear.weight_scale if isinstance(linear, Int8Linear) else None
                parts |= {name: linear.weight.data, f"{name}_scale": scale, f"{name}_bias": linear.bias}
        down = self.down.weight
        if not isinstance(down, Tensor) or parts["up"] is None:
            raise TypeError("experts are made of loaded linears")
        by_neuron = down.data.t().contiguous()
        replace_tensor(self.down, "weight", by_neuron.t())
        return ExpertWeights(**{**parts, "up": parts["up"].contiguous(), "down": by_neuron})  # type: ignore[arg-type]

    def _planes(self) -> PlaneWeights:
        up, down, gate = self.up, self.down, self.gate
        if not isinstance(up, Int8Linear) or not isinstance(down, Int8Linear) or self.fit is None:
            raise TypeError("bit planes route by int8 weights; this FFN's are in floating point")
        weights = PlaneWeights(
            up.weight, down.weight, up.weight_scale, down.weight_scale, self.fit.found(),
            up_bias=up.bias, down_bias=down.bias, refined_bits=self.experts.refined_bits,
        )  # fmt: skip
        if isinstance(gate, Int8Linear):
            weights = replace(weights, gate=gate.weight, gate_scale=gate.weight_scale, gate_bias=gate.bias)
        return packed_weights(weights, self.experts.router_bits, self.experts.size)

    def _unfitted(self) -> CoarseFit:
        scored = [each for each in (self.gate, self.up) if isinstance(each, Int8Linear)]
        scales, biases = [each.weight_scale for each in scored], [each.bias for each in scored]
        return CoarseFit.unfitted(scales, biases, dense_weight(self.down).norm(dim=0))

    def _sparse(self, x: Tensor, compute: Compute) -> Tensor:
        """x: [rows, tokens, hidden] of rows that are not full."""
        limits = compute.raised(compute.at(self.thresholds))
        if x.shape[1] > 1:
            limits = limits.repeat_interleave(x.shape[1], dim=0)  # [rows * tokens, 2]
        if self.planes is None:
            y, counts = self._by_router(x.flatten(0, 1), limits)
        else:
            y, counts = self._by_planes(x.flatten(0, 1), limits, compute.together)
        compute.note_sparse(self._prices, counts, x.shape[1])
        return y.view(x.shape) + compute.at(self.compensation).unsqueeze(1).to(x.dtype)

    def _by_planes(self, x: Tensor, limits: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        """(y [tokens, hidden], neurons computed and neurons refined, int64 [2, tokens])"""
        if self.planes is None:
            raise RuntimeError("prepare() was not called")
        bits, size = self.experts.router_bits, self.experts.size
        result = plane_ffn(x, self.planes, limits, bits, self.activation_name, size, together)
        return result.y, result.counts

    def _plane_bytes(self, active: int, fine: int) -> float:
        biased, output_biased = (getattr(each, "bias", None) is not None for each in (self.up, self.down))
        shape = FFNShape(self.hidden_size, self.width, self.gate is not None, biased, output_biased)
        return plane_ffn_bytes(shape, self.experts.router_bits, active, fine, self.experts.refined_bits)

    @property
    def _prices(self) -> Prices:
        if self.by_planes:
            return self._plane_prices
        fixed = self.router_bytes + constant_bytes(self.hidden_size)
        return Prices(fixed, self.whole_bytes / self.width, 0.0)

    def _by_router(self, x: Tensor, limits: Tensor) -> tuple[Tensor, Tensor]:
        """(y [tokens, hidden], neurons computed twice over, int64 [2, tokens])"""
        active = ~(self.scores(x) <= limits[:, :1])  # what is no number must not be hidden by computing nothing
        size = self.experts.size
        mask = active.repeat_interleave(size, dim=-1)[:, : self.width]
        if self.tiles is None:
            y = self.down(self.hidden(x) * mask)
        else:
            y = expert_ffn(x, self.tiles, active, size, self.activation_name)
        return y, mask.sum(-1).expand(2, -1)

    def _routed(self, x: Tensor) -> Tensor:
        if self.router is None:
            raise RuntimeError("prepare() was not called")
        scores: Tensor = self.router(x)
        return scores.float()

    @property
    def router_bytes(self) -> int:
        """What a lone token reads to route, beside the weights of the experts."""
        return sum(each.nbytes for each in self.router.parameters()) if self.router else 0
