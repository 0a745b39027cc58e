"""The weights of one FFN in fp32, neuron by neuron: what routers are made from."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.activations import ACTIVATIONS
from ...models.ffn.dense import FFN
from ...models.linear import dense_weight


@dataclass(frozen=True, slots=True)
class FFNWeights:
    """h = act(up x), or act(gate x) * (up x) when there is a gate; y = down h. Biases join up x and gate x.

    up, gate: [width, hidden]; down: [hidden, width]; biases: [width]; activation: a name, as in FFNSpec.
    """

    up: Tensor
    down: Tensor
    activation: str
    gate: Tensor | None = None
    up_bias: Tensor | None = None
    gate_bias: Tensor | None = None

    @classmethod
    def of(cls, ffn: FFN) -> "FFNWeights":
        """The weights of a loaded FFN, whatever its formats. Holds a copy in fp32 of what is not fp32."""
        gate = None if ffn.gate is None else dense_weight(ffn.gate)
        biases = (_bias(ffn.up), None if ffn.gate is None else _bias(ffn.gate))
        return cls(dense_weight(ffn.up), dense_weight(ffn.down), ffn.activation_name, gate, *biases)

    @property
    def rows(self) -> Tensor:
        """The rows that carry the sparsity: the gate's where there is one, [width, hidden]."""
        return self.up if self.gate is None else self.gate

    @property
    def down_norms(self) -> Tensor:
        """||D_:,i||_2, [width]."""
        norms: Tensor = torch.linalg.vector_norm(self.down.float(), dim=0)
        return norms

    def select(self, neurons: Tensor) -> "FFNWeights":
        """The FFN of these neurons alone, in this order."""
        gate = None if self.gate is None else self.gate[neurons]
        up_bias = None if self.up_bias is None else self.up_bias[neurons]
        gate_bias = None if self.gate_bias is None else self.gate_bias[neurons]
        return FFNWeights(self.up[neurons], self.down[:, neurons], self.activation, gate, up_bias, gate_bias)

    def preactivation(self, x: Tensor) -> Tensor:
        """What the activation function is given, [tokens, width]."""
        if self.gate is None:
            return functional.linear(x.float(), self.up.float(), self.up_bias)
        return functional.linear(x.float(), self.gate.float(), self.gate_bias)

    def hidden(self, x: Tensor) -> Tensor:
        """h, [tokens, width]."""
        h = ACTIVATIONS[self.activation](self.preactivation(x))
        return h if self.gate is None else h * functional.linear(x.float(), self.up.float(), self.up_bias)


def _bias(linear: object) -> Tensor | None:
    bias = getattr(linear, "bias", None)
    return bias.float() if isinstance(bias, Tensor) else None
