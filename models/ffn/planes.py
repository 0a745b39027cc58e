"""A feed-forward network that routes by bit planes of its own int8 weights: kernels/plane_ffn.py says how."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...kernels.plane_ffn import PlaneWeights, packed_weights, plane_ffn, plane_scores
from ...kernels.planes.bytes import WHOLE_BITS, FFNShape, constant_bytes, plane_ffn_bytes
from ...kernels.planes.choice import NeuronScores
from ...kernels.planes.coarse import CoarseFit
from ..compute import Prices
from ..linear import Int8Linear, TensorModule, dense_weight
from ..spec import ExpertSpec, FFNSpec
from .sparse import SparseFFN


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


class PlaneFFN(SparseFFN):
    """Neurons, or tiles of them, that `bits` high bits of the int8 weights score and `refined_bits` refine.

    The second threshold is for doubts: kernels/planes/choice.py. `planes` are there once the weights are loaded.
    """

    planes: PlaneWeights

    def __init__(self, hidden_size: int, spec: FFNSpec, num_tiers: int) -> None:
        super().__init__(hidden_size, spec, num_tiers)
        self.bits, self.refined_bits = spec.experts.router_bits, spec.experts.refined_bits
        self.fit = PlaneFit(spec.width, 1 + spec.gated)

    @classmethod
    def check(cls, experts: ExpertSpec) -> None:
        if not 0 < experts.router_bits < experts.refined_bits <= WHOLE_BITS:
            raise ValueError(
                f"{experts.router_bits} bits route and {experts.refined_bits} refine, it must be 1 to {WHOLE_BITS} and "
                "rising"
            )

    @property
    def prices(self) -> Prices:
        return self._prices

    @property
    def down_bytes(self) -> float:
        """int8 rows of down: what computing every neuron reads beside the planes."""
        return self._bytes(self.width, 0) - self._bytes(0, 0)

    @property
    def low_bytes(self) -> float:
        """What refining every neuron reads."""
        return self._bytes(0, self.width) - self._bytes(0, 0)

    @property
    def ratio(self) -> float:
        """The second threshold over the first at which a byte has one price."""
        return math.sqrt(self.low_bytes / self.down_bytes)

    def scores(self, x: Tensor) -> Tensor:
        return self.plane_scores(x).touched_below(self.ratio)

    def plane_scores(self, x: Tensor) -> NeuronScores:
        """What decides at any thresholds, fp32 [.., tiles] each."""
        weights = self.planes if len(self.planes.up) else self._weights()
        found = plane_scores(x.flatten(0, -2), weights, self.bits, self.activation_name, self.tile)
        return NeuronScores(*(each.view(*x.shape[:-1], -1) for each in found))

    def sparse(self, x: Tensor, thresholds: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        """(y [tokens, hidden], counts int64 [2, tokens]: neurons computed and neurons refined)."""
        result = plane_ffn(x, self.planes, thresholds, self.bits, self.activation_name, self.tile, together)
        return result.y, result.counts

    def set_fit(self, fit: CoarseFit) -> None:
        """Sets what the high bits are worth from now on."""
        self.fit.take(fit)
        self.planes = self._planes()

    def begin(self) -> None:
        """The coarse rows are taken at their word."""
        scored = [each for each in (self.gate, self.up) if isinstance(each, Int8Linear)]
        scales, biases = [each.weight_scale for each in scored], [each.bias for each in scored]
        self.fit.take(CoarseFit.unfitted(scales, biases, dense_weight(self.down).norm(dim=0)))

    def prepare(self) -> None:
        super().prepare()
        self.planes = self._planes()
        fixed, active, fine = (self._bytes(*counts) for counts in ((0, 0), (1, 0), (0, 1)))
        self._prices = Prices(fixed + constant_bytes(self.hidden_size), (active - fixed, fine - fixed))

    def share(self) -> None:
        """Has planes read all of down from what the full tier reads, once its linears are packed in digits; on a CPU
        they give up rows of their own.
        """
        if isinstance(self.down, Int8Linear) and self.down.digits is not None:
            shared = self.planes.with_whole(self.down.digits)
            self.planes = shared if shared.packed is None else shared.without_rows()

    def _planes(self) -> PlaneWeights:
        return packed_weights(self._weights(), self.bits, self.tile)

    def _weights(self) -> PlaneWeights:
        up, down, gate = self.up, self.down, self.gate
        if not isinstance(up, Int8Linear) or not isinstance(down, Int8Linear):
            raise TypeError("bit planes route by int8 weights; this FFN's are in floating point")
        weights = PlaneWeights(
            up.int8_rows(), down.int8_rows(), up.weight_scale, down.weight_scale, self.fit.found(),
            up_bias=up.bias, down_bias=down.bias, refined_bits=self.refined_bits,
        )  # fmt: skip
        if isinstance(gate, Int8Linear):
            weights = replace(weights, gate=gate.int8_rows(), gate_scale=gate.weight_scale, gate_bias=gate.bias)
        return weights

    def _bytes(self, active: int, fine: int) -> float:
        """What a lone token reads, without the constant."""
        biased, output_biased = (getattr(each, "bias", None) is not None for each in (self.up, self.down))
        shape = FFNShape(self.hidden_size, self.width, self.gate is not None, biased, output_biased)
        return plane_ffn_bytes(shape, self.bits, active, fine, self.refined_bits)
