"""A feed-forward network in experts: tiles that a small network routes to, by the norm that it foresees of each."""

import torch
from torch import Tensor, nn

from ...kernels.expert_ffn import ExpertWeights, expert_ffn
from ...kernels.planes.bytes import constant_bytes
from ...kernels.route import route_scores
from ..compute import Prices
from ..linear import Int8Linear, Linear, TensorModule, replace_tensor
from ..spec import FFNSpec
from .sparse import SparseFFN


class NormRouter(TensorModule):
    """Foresees the norm of what each expert puts out, kernels/route.py: [.., hidden] -> [.., experts]."""

    def __init__(self, hidden_size: int, width: int, num_experts: int) -> None:
        super().__init__()
        self.first = Linear(hidden_size, width, bias=False)
        self.second = Linear(width, num_experts, bias=False)

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> "NormRouter":
        """The router of these weights: first [width, hidden], second [experts, width]."""
        with torch.device("meta"):
            router = cls(first.shape[1], len(first), len(second))
        router.first.weight = nn.Parameter(first, requires_grad=False)
        router.second.weight = nn.Parameter(second, requires_grad=False)
        return router

    def forward(self, x: Tensor) -> Tensor:
        scores = route_scores(x.flatten(0, -2), self.first.weight, self.second.weight)
        return scores.view(*x.shape[:-1], -1)


class RoutedFFN(SparseFFN):
    """Experts that `router` scores, [.., hidden] -> [.., experts]; any module that does so may take its place.

    The second threshold is not used.
    """

    router: TensorModule

    def __init__(self, hidden_size: int, spec: FFNSpec, num_tiers: int) -> None:
        super().__init__(hidden_size, spec, num_tiers)
        self.router_width = spec.experts.router_width
        self.router = NormRouter(hidden_size, self.router_width, self.num_tiles)
        self.weights: ExpertWeights | None = None  # for the kernel, where one takes these linears

    @property
    def prices(self) -> Prices:
        router = sum(each.nbytes for each in self.router.parameters())
        return Prices(router + constant_bytes(self.hidden_size), (self.whole_bytes / self.width,))

    def scores(self, x: Tensor) -> Tensor:
        return self.router(x).float()

    @property
    def matrices(self) -> tuple[Tensor, Tensor] | None:
        """Both of the router of kernels/route.py; None where another has taken its place."""
        router = self.router
        return (router.first.weight, router.second.weight) if isinstance(router, NormRouter) else None

    def sparse(self, x: Tensor, thresholds: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        """Each token chooses for itself."""
        active = ~(self.scores(x) <= thresholds[:, :1])  # what is no number must not be hidden by computing nothing
        neurons = active.repeat_interleave(self.tile, dim=-1)[:, : self.width]
        y = self.down(self.hidden(x) * neurons) if self.weights is None else self._experts(x, active)
        return y, neurons.sum(-1).unsqueeze(0)

    def dense(self, x: Tensor) -> Tensor:
        if self.weights is None:
            return super().dense(x)
        every = torch.ones(x.shape[:-1].numel(), self.num_tiles, dtype=torch.bool, device=x.device)
        return self._experts(x.flatten(0, -2), every).view(x.shape)

    def prepare(self) -> None:
        super().prepare()
        if self._is_uniform():
            self.weights = self._by_neuron()

    def _experts(self, x: Tensor, active: Tensor) -> Tensor:
        if self.weights is None:
            raise TypeError("no kernel takes linears of several kinds")
        return expert_ffn(x, self.weights, active, self.tile, self.activation_name)

    def _is_uniform(self) -> bool:
        """Whether one kernel can compute it: linears of one kind and dtype, activations as they are."""
        linears = [each for each in (self.up, self.gate, self.down) if each is not None]
        kinds = {(type(each), each.weight.dtype) for each in linears}
        return len(kinds) == 1 and kinds.pop()[0] in (Linear, Int8Linear)

    def _by_neuron(self) -> ExpertWeights:
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
