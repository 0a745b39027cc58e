"""The feed-forward network of a layer, whole. Its twins that compute a part of its neurons: sparse.py."""

from torch import Tensor

from ...kernels.activations import ACTIVATIONS
from ..compute import Compute
from ..linear import LINEARS, GradedLinear, TensorModule
from ..spec import FFNSpec


class FFN(TensorModule):
    """down(act(up x)), or down(act(gate x) * up x) when gated. x: [batch, tokens, hidden]."""

    def __init__(self, hidden_size: int, spec: FFNSpec) -> None:
        super().__init__()
        self.width, self.activation_name = spec.width, spec.activation
        self.activation = ACTIVATIONS[spec.activation]
        self.gate = LINEARS[spec.gate](hidden_size, spec.width, spec.bias) if spec.gated else None
        self.up = LINEARS[spec.up](hidden_size, spec.width, spec.bias)
        self.down = LINEARS[spec.down](spec.width, hidden_size, spec.output_bias)
        self.packed: tuple[TensorModule] | None = None  # gate and up as one linear; see packing.py
        self.whole_bytes = 0  # of the weights, once they are loaded

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        return self.down(self.hidden(x, compute), compute)

    def dense(self, x: Tensor) -> Tensor:
        """All of it, whatever the tier."""
        return self.down(self.hidden(x))

    def hidden(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        """What the neurons give, [batch, tokens, width]."""
        if self.gate is None:
            return self.activation(self.up(x, compute))
        if self.packed:
            gate, up = self.packed[0](x, compute).chunk(2, dim=-1)
        else:
            gate, up = self.gate(x, compute), self.up(x, compute)
        return self.activation(gate) * up

    def prepare(self) -> None:
        """Counts the bytes of the weights, and has down count neurons; call it once they are loaded."""
        if isinstance(self.down, GradedLinear):
            self.down.counts_neurons = True
        self.whole_bytes = sum(_bytes(linear) for linear in (self.gate, self.up, self.down) if linear is not None)


def _bytes(linear: TensorModule) -> int:
    if isinstance(linear, GradedLinear):  # whose weights are planes
        return linear.whole_bytes
    return sum(each.nbytes for each in (*linear.parameters(), *linear.buffers()))
