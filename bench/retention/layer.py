"""One FFN as every method of the curves sees it: int8 weights, one scale a row, computed in fp32."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from ...compress.quantize.int8 import quantize_rows
from ...kernels.plane_ffn import PlaneWeights
from ...kernels.planes.bytes import FFNShape, int8_ffn_bytes
from ...kernels.planes.coarse import CoarseFit
from ...models.ffn.dense import FFN
from .weights import FFNWeights


@dataclass(frozen=True)
class LabLayer:
    """original: the weights as they came; weights: what their int8 rows spell; planes: those rows, not yet fitted."""

    original: FFNWeights
    weights: FFNWeights
    planes: PlaneWeights
    down_bias: Tensor | None

    @classmethod
    def of(cls, ffn: FFN) -> "LabLayer":
        original, bias = FFNWeights.of(ffn), getattr(ffn.down, "bias", None)
        up, down = quantize_rows(original.up), quantize_rows(original.down)
        gate = None if original.gate is None else quantize_rows(original.gate)
        spelled = replace(
            original, up=_spelled(*up), down=_spelled(*down), gate=None if gate is None else _spelled(*gate)
        )
        scored = [up] if gate is None else [gate, up]
        biases = [original.up_bias] if gate is None else [original.gate_bias, original.up_bias]
        fit = CoarseFit.unfitted([scale for _, scale in scored], biases, spelled.down_norms)
        planes = PlaneWeights(
            up[0], down[0], up[1], down[1], fit, up_bias=original.up_bias, gate_bias=original.gate_bias
        )
        if gate is not None:
            planes = replace(planes, gate=gate[0], gate_scale=gate[1])
        down_bias = bias.float() if isinstance(bias, Tensor) else None
        return cls(original, spelled, replace(planes, down_bias=down_bias), down_bias)

    @property
    def width(self) -> int:
        return len(self.weights.up)

    @property
    def hidden_size(self) -> int:
        return len(self.weights.down)

    @property
    def gated(self) -> bool:
        return self.weights.gate is not None

    @property
    def shape(self) -> FFNShape:
        biases = (self.weights.up_bias is not None, self.down_bias is not None)
        return FFNShape(self.hidden_size, self.width, self.gated, *biases)

    @cached_property
    def whole_bytes(self) -> int:
        """The bytes of the int8 weights and their scales: what shares are shares of."""
        return int8_ffn_bytes(self.shape)

    def output(self, h: Tensor, down: Tensor | None = None) -> Tensor:
        """What the neurons' values [tokens, width] give."""
        return functional.linear(h, self.weights.down if down is None else down, self.down_bias)

    def dense(self, x: Tensor) -> Tensor:
        return self.output(self.weights.hidden(x))


def _spelled(rows: Tensor, scale: Tensor) -> Tensor:
    return rows.float() * scale.unsqueeze(1)


def mean_output(layer: LabLayer, x: Tensor, y: Tensor) -> Tensor:
    """What y lacks of the dense output on average, [hidden]."""
    return (layer.dense(x) - y).mean(0)


def used_by_all(value: float, x: Tensor) -> Tensor:
    """The same share for every token, fp32 [tokens]."""
    return torch.full((len(x),), value)
