"""A feed-forward network as int8 bit planes compute it at a tier, in a form that passes gradients to its weights.

`kernels/plane_ffn.py` says what is computed. Here the weights are floating point; each is rounded as it would be
stored, and the gradient goes through the rounding as if it were none (straight-through; Bengio et al. 2013). Who is
computed is decided by the scores of the tokens at hand, without a gradient, so that a layer spends its share.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.activations import ACTIVATIONS
from ...kernels.int8_dynamic_linear import quantize_tokens
from ...models.compute import Compute
from ...models.ffn import FFN
from ...models.linear import Linear, TensorModule
from ...models.spec import FFNSpec


@dataclass(frozen=True, slots=True)
class TierShares:
    """bits: of the high planes. active: the part of a layer's neurons that is computed. exact: from all bits.

    compensate: whether the mean of what is left out is added.
    """

    bits: int
    active: float
    exact: float
    compensate: bool = True


class TierFFN(FFN):
    """The twin of a dense `FFN` over the same parameters: at the tier as long as `at_tier`, else whole int8."""

    def __init__(self, hidden_size: int, spec: FFNSpec, shares: TierShares) -> None:
        super().__init__(hidden_size, spec)
        self.shares, self.at_tier = shares, False

    @classmethod
    def of(cls, ffn: FFN, hidden_size: int, spec: FFNSpec, shares: TierShares) -> "TierFFN":
        """The twin of a dense FFN, sharing its linears."""
        with torch.device("meta"):
            twin = cls(hidden_size, spec, shares)
        twin.gate, twin.up, twin.down = ffn.gate, ffn.up, ffn.down
        return twin

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        if self.at_tier:
            return self.sparse(x.flatten(0, -2)).view(x.shape)
        return self.dense(x)

    def hidden(self, x: Tensor) -> Tensor:
        up = functional.linear(x, fake_int8(_weight(self.up)), _bias(self.up))
        if self.gate is None:
            return self.activation(up)
        return self.activation(functional.linear(x, fake_int8(_weight(self.gate)), _bias(self.gate))) * up

    def dense(self, x: Tensor) -> Tensor:
        """All neurons with int8 weights."""
        return self._down(self.hidden(x))

    def sparse(self, x: Tensor) -> Tensor:
        """At the tier. x: [tokens, hidden]; the same numbers as `plane_ffn` at thresholds that keep these shares."""
        linears = [each for each in (self.gate, self.up) if each is not None]
        act = ACTIVATIONS[self.activation_name]
        coarse, exact = (_product(parts, act) for parts in zip(*self._planes(x, linears), strict=True))
        norm = fake_int8(_weight(self.down)).detach().float().norm(dim=0)
        score = coarse.detach().float().abs() * norm
        active = score > limit_for_share(score, self.shares.active)
        fine = active & (score > limit_for_share(score, self.shares.exact))
        h = torch.where(fine, exact, torch.where(active, coarse, torch.zeros_like(coarse)))
        y = self._down(h)
        if not self.shares.compensate:
            return y
        left_out = (exact - h).detach().mean(0)
        return y + functional.linear(left_out, fake_int8(_weight(self.down)).detach())

    def _planes(self, x: Tensor, linears: Sequence[TensorModule]) -> list[tuple[Tensor, Tensor]]:
        """(coarse, exact) of gate, where there is one, and up."""
        integers, token_scale = quantize_tokens(x.detach())
        units = x.float() / torch.where(token_scale > 0, token_scale, torch.ones_like(token_scale))
        rounded = _straight_through(units, integers)
        found = []
        for linear in linears:
            high, whole, scale = plane_rows(_weight(linear), self.shares.bits)
            both = (functional.linear(rounded, rows).float() * (token_scale * scale) for rows in (high, whole))
            bias = _bias(linear)
            coarse, exact = (each if bias is None else each + bias for each in both)
            found.append((coarse, exact))
        return found

    def _down(self, h: Tensor) -> Tensor:
        return functional.linear(h, fake_int8(_weight(self.down)), _bias(self.down))


def plane_rows(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """(coarse, exact, scale) of int8 rows in units of their scale: [rows, columns] twice, fp32 [rows].

    exact q = round(w / scale), scale = max|w| / 127; coarse p 2^(8-b) + 2^(7-b) - 1/2 with p = floor(q / 2^(8-b)).
    """
    scale = _row_scale(weight)
    units = weight / torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(1)
    whole = torch.round(units.detach()).clamp(-127, 127)
    step = 2.0 ** (8 - bits)
    high = torch.floor(whole / step) * step + (step / 2 - 0.5)
    return _straight_through(units, high), _straight_through(units, whole), scale


def fake_int8(weight: Tensor) -> Tensor:
    """The weights as int8 rows are worth, with the gradient of the weights themselves. [rows, columns]."""
    scale = _row_scale(weight).unsqueeze(1)
    whole = torch.round(weight.detach() / torch.where(scale > 0, scale, torch.ones_like(scale))).clamp(-127, 127)
    return _straight_through(weight, whole * scale)


def limit_for_share(scores: Tensor, share: float) -> float | Tensor:
    """The threshold above which at most this share of the scores >= 0 lies, and as much of it as equal ones let."""
    left_out = scores.numel() - int(share * scores.numel())
    return -1.0 if left_out <= 0 else torch.kthvalue(scores.flatten(), left_out).values


def _straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    return value + (rounded - value).detach()


def _row_scale(weight: Tensor) -> Tensor:
    return weight.detach().abs().amax(dim=1) / 127.0


def _product(parts: tuple[Tensor, ...], act: Callable[[Tensor], Tensor]) -> Tensor:
    return act(parts[0]) if len(parts) == 1 else act(parts[0]) * parts[1]


def _weight(linear: TensorModule) -> Tensor:
    if not isinstance(linear, Linear):
        raise TypeError("only floating-point weights learn")
    return linear.weight


def _bias(linear: TensorModule) -> Tensor | None:
    return linear.bias if isinstance(linear, Linear) else None
