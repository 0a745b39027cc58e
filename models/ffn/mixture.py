"""A feed-forward network that the model itself was trained as: many experts, of which each token takes a few."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..compute import Compute
from ..linear import Linear
from ..spec import FFNSpec, MixtureSpec
from .dense import FFN


class MixtureFFN(FFN):
    """The sum of p_e expert_e(x) over the `active` experts of highest p, where p = softmax(choice x) over all experts,
    divided by the sum of those taken where `normalised`. x: [batch, tokens, hidden].

    Its linears are those of its experts; it has no gate, up and down of its own.
    """

    def __init__(self, hidden_size: int, spec: FFNSpec) -> None:
        nn.Module.__init__(self)
        mixture, expert = spec.mixture, replace(spec, mixture=MixtureSpec())
        self.active, self.normalised = mixture.active, mixture.normalised
        self.width, self.activation_name = spec.width * mixture.active, spec.activation
        self.choice = Linear(hidden_size, mixture.num_experts, False)
        self.experts = nn.ModuleList(FFN(hidden_size, expert) for _ in range(mixture.num_experts))
        self.gate, self.packed, self.whole_bytes = None, None, 0

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        return self.dense(x)

    def dense(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        share, made = self._shares(flat), torch.zeros_like(flat)
        for expert, part in zip(self.experts, share.unbind(1), strict=True):
            if flat.is_cuda:  # a step on a GPU asks nothing back, so every row passes every expert
                made = made + expert(flat) * part.unsqueeze(1)
            elif len(rows := part.nonzero()[:, 0]):
                made = made.index_add(0, rows, expert(flat[rows]) * part[rows].unsqueeze(1))
        return made.view(x.shape)

    def _shares(self, x: Tensor) -> Tensor:
        """What each expert counts for each token, [tokens, experts]; 0 for those not taken."""
        chances = torch.softmax(self.choice(x).float(), -1)
        taken, places = chances.topk(self.active, dim=-1)
        if self.normalised:
            taken = taken / taken.sum(-1, keepdim=True)
        return torch.zeros_like(chances).scatter(1, places, taken).to(x.dtype)

    def prepare(self) -> None:
        for expert in self.experts:
            if isinstance(expert, FFN):
                expert.prepare()
        self.whole_bytes = sum(expert.whole_bytes for expert in self.experts if isinstance(expert, FFN))
