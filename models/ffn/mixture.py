"""A feed-forward network that the model itself was trained as: many experts, of which each token takes a few."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ...kernels.mixture_ffn import MixtureWeights, mixture_ffn
from ..compute import Compute, Prices
from ..linear import Int8Linear, Linear, TensorModule, replace_tensor
from ..spec import FFNSpec, MixtureSpec
from .dense import FFN

_LINEARS = ("gate", "up", "down")
ROUNDING = 1e-4  # of a count that lies on a line between two


class MixtureFFN(FFN):
    """The sum of p_e expert_e(x) over the `active` experts of highest p, where p = softmax(choice x) over all experts,
    divided by the sum of those taken where `normalised`. x: [batch, tokens, hidden].

    thresholds: fp32 [tiers], how many experts a token takes at each tier, `active` at the full one; between two tiers
    the next whole number above the line. Its linears are those of its experts; it has no gate, up and down of its own.
    """

    thresholds: Tensor | None

    def __init__(self, hidden_size: int, spec: FFNSpec, num_tiers: int) -> None:
        nn.Module.__init__(self)
        mixture, expert = spec.mixture, replace(spec, mixture=MixtureSpec())
        self.active, self.normalised = mixture.active, mixture.normalised
        self.width, self.activation_name = spec.width * mixture.active, spec.activation
        self.choice = Linear(hidden_size, mixture.num_experts, False)
        self.experts = nn.ModuleList(FFN(hidden_size, expert) for _ in range(mixture.num_experts))
        self.gate, self.packed, self.whole_bytes = None, None, 0
        self.prices = Prices(0.0, (0.0,))  # of a token: the choice, and each neuron of the experts that it takes
        counts = torch.empty(num_tiers, dtype=torch.float32) if num_tiers > 1 else None
        self.register_buffer("thresholds", counts)
        self.weights: MixtureWeights | None = None  # of all experts, once they are stacked for a GPU

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        if compute is None or compute.asked.all_full or self.thresholds is None:
            return self.dense(x)
        taken = self.taken(compute.asked.of_all(self.thresholds))
        neurons = taken[compute.asked.sparse_rows].repeat_interleave(x.shape[1]) * (self.width // self.active)
        compute.spent.note_sparse(self.prices, neurons.unsqueeze(0), x.shape[1])
        return self._sum(x.flatten(0, -2), taken.repeat_interleave(x.shape[1])).view(x.shape)

    def dense(self, x: Tensor) -> Tensor:
        return self._sum(x.flatten(0, -2), None).view(x.shape)

    def taken(self, thresholds: Tensor) -> Tensor:
        """How many experts rows take at thresholds: int64, like these."""
        return (thresholds - ROUNDING).ceil().clamp(1, self.active).long()

    def _sum(self, x: Tensor, taken: Tensor | None) -> Tensor:
        """x: [tokens, hidden]; taken: experts of each token, int64 [tokens]."""
        if self.weights is not None and x.is_cuda:
            return mixture_ffn(x, self.weights, *self._chosen(x, taken), self.activation_name)
        made = torch.zeros_like(x)
        for expert, part in zip(self.experts, self._parts(x, taken).unbind(1), strict=True):
            if x.is_cuda:  # a step on a GPU asks nothing back, so every row passes every expert
                made = made + expert(x) * part.unsqueeze(1)
            elif len(rows := part.nonzero()[:, 0]):
                made = made.index_add(0, rows, expert(x[rows]) * part[rows].unsqueeze(1))
        return made

    def _parts(self, x: Tensor, taken: Tensor | None) -> Tensor:
        """What each expert counts for each token, [tokens, experts]; 0 for those not taken."""
        places, parts = self._chosen(x, taken)
        return parts.new_zeros(len(x), len(self.experts)).scatter(1, places, parts).to(x.dtype)

    def _chosen(self, x: Tensor, taken: Tensor | None) -> tuple[Tensor, Tensor]:
        """The experts of each token, int64 [tokens, active], rising, and what they count, fp32; 0 if not taken."""
        chances = torch.softmax(self.choice(x).float(), -1)
        highest, places = chances.topk(self.active, dim=-1)
        if taken is not None:
            highest = highest * (torch.arange(self.active, device=x.device) < taken.unsqueeze(1))
        if self.normalised:
            highest = highest / highest.sum(-1, keepdim=True)
        places, order = places.sort(-1)
        return places, highest.gather(1, order)

    @property
    def kinds(self) -> set[tuple[type, torch.dtype | None]]:
        """What linears its experts are made of, and of what weights; None where those have another form."""
        return {(type(each), getattr(_weight_of(each), "dtype", None)) for each in self._linears()}

    @property
    def stacks(self) -> bool:
        """Whether all experts are gated, of linears of one kind without biases, whose weights lie as they are."""
        linears, kinds = self._linears(), self.kinds
        whole = len(linears) == len(_LINEARS) * len(self.experts)
        return whole and len(kinds) == 1 and kinds.pop()[0] in (Linear, Int8Linear) and not any(map(_bias_of, linears))

    def stack_(self) -> None:
        """Lays the weights of all experts side by side, of which their linears keep views; where `stacks`. Experts are
        no longer packed by themselves.
        """
        for expert in self.experts:
            if isinstance(expert, FFN):
                expert.packed = None
        scaled = all(isinstance(each, Int8Linear) for each in self._linears())
        matrices = [self._stacked(name, "weight") for name in _LINEARS]
        scales = [self._stacked(name, "weight_scale") if scaled else None for name in _LINEARS]
        self.weights = MixtureWeights(*matrices, *scales)

    def _linears(self) -> list[TensorModule]:
        found = [getattr(expert, name) for expert in self.experts for name in _LINEARS]
        return [each for each in found if each is not None]

    def _stacked(self, linear: str, part: str) -> Tensor:
        owners = [getattr(expert, linear) for expert in self.experts]
        whole = torch.stack([getattr(owner, part).data for owner in owners])
        for owner, view in zip(owners, whole, strict=True):
            replace_tensor(owner, part, view)
        return whole

    def prepare(self) -> None:
        """Counts the bytes that a token reads of the weights; call it once they are loaded."""
        for expert in self.experts:
            if isinstance(expert, FFN):
                expert.prepare()
                each = expert.whole_bytes
        self.whole_bytes = self.choice.weight.nbytes + self.active * each
        self.prices = Prices(self.choice.weight.nbytes, (self.active * each / self.width,))


def _weight_of(linear: TensorModule) -> object:
    return getattr(linear, "weight", None)


def _bias_of(linear: TensorModule) -> bool:
    return getattr(linear, "bias", None) is not None
