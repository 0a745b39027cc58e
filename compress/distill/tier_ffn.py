"""A feed-forward network as int8 bit planes compute it at a tier, in a form that passes gradients to its weights.

`kernels/plane_ffn.py` says what is computed. Here the weights are floating point; each is rounded as it would be
stored, and the gradient goes through the rounding, and from a coarse value to the refined one, as if there were none.
What the high bits are worth is fitted to the tokens at hand, and their scores decide who is computed, without a
gradient, so that a layer spends its share whatever its weights become.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...kernels.int8_dynamic_linear import quantize_tokens
from ...kernels.planes.choice import NeuronScores
from ...kernels.planes.coarse import CoarseFit, foresee
from ...models.compute import Compute
from ...models.ffn.dense import FFN
from ...models.linear import Linear, TensorModule
from ...models.spec import ExpertSpec, FFNSpec
from .straight_through import fake_int8, high_bits, int8_units, straight_through


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Neurons refined and from the high bits, [tokens, width] each, and what `plane_scores` makes of them."""

    refined: Tensor
    coarse: Tensor
    scores: NeuronScores


class TierFFN(FFN):
    """The twin of a dense `FFN` over the same parameters: at the tier as long as `at_tier`, else whole int8.

    experts: the bits that route and refine. importance: fp32 [width]. compensate: adds the mean of what is left out.
    touched: of the neurons the part of which the tier reads anything; ratio: of the second threshold to the first.
    """

    def __init__(
        self, hidden_size: int, spec: FFNSpec, experts: ExpertSpec, importance: Tensor, compensate: bool = True
    ) -> None:
        super().__init__(hidden_size, spec)
        self.experts, self.compensate = experts, compensate
        self.importance = importance.bfloat16().float()
        self.touched, self.ratio, self.at_tier = 1.0, 1.0, False

    @classmethod
    def of(
        cls, ffn: FFN, hidden_size: int, spec: FFNSpec, experts: ExpertSpec, importance: Tensor, compensate: bool
    ) -> "TierFFN":
        """The twin of a dense FFN, sharing its linears."""
        with torch.device("meta"):
            twin = cls(hidden_size, spec, experts, importance, compensate)
        twin.gate, twin.up, twin.down = ffn.gate, ffn.up, ffn.down
        return twin

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        if self.at_tier:
            return self.sparse(x.flatten(0, -2)).view(x.shape)
        return self.dense(x)

    def hidden(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        up = functional.linear(x, fake_int8(_weight(self.up)), _bias(self.up))
        if self.gate is None:
            return self.activation(up)
        return self.activation(functional.linear(x, fake_int8(_weight(self.gate)), _bias(self.gate))) * up

    def dense(self, x: Tensor) -> Tensor:
        """All neurons with int8 weights."""
        return self._down(self.hidden(x))

    def sparse(self, x: Tensor) -> Tensor:
        """What `plane_ffn` gives at the threshold that touches the tier's part for `x`. x: [tokens, hidden]."""
        seen = self.foreseen(x)
        threshold = threshold_for_share(seen.scores.touched_below(self.ratio), self.touched)
        computed, refined = seen.scores.chosen(threshold * torch.tensor([[1.0, self.ratio]], device=x.device))
        h = torch.where(computed, torch.where(refined, seen.refined, seen.coarse), 0.0)
        y = self._down(h)
        if not self.compensate:
            return y
        left_out = (seen.refined - h).detach().mean(0)
        return y + functional.linear(left_out, fake_int8(_weight(self.down)).detach())

    def foreseen(self, x: Tensor) -> Foreseen:
        """What the refined bits give and what the high ones foresee. x: [tokens, hidden]."""
        pairs, fit = self.products(x)
        coarse = [straight_through(refined, fitted) for refined, fitted in pairs]
        value, deviation = foresee(coarse, fit, self.activation_name)
        first = self.activation(pairs[0][0])
        refined = first if self.gate is None else first * pairs[1][0]
        parts = (value.abs(), deviation, refined.abs())
        return Foreseen(refined, value, NeuronScores(*(each.detach() * self.importance for each in parts)))

    def products(self, x: Tensor) -> tuple[list[tuple[Tensor, Tensor]], CoarseFit]:
        """(refined, fitted coarse) products of gate, where there is one, and up, fp32 [tokens, width]; their fit."""
        integers, token_scale = quantize_tokens(x.detach())
        units = x.float() / torch.where(token_scale > 0, token_scale, torch.ones_like(token_scale))
        rounded = straight_through(units, integers)
        found, fits = [], []
        for linear in [each for each in (self.gate, self.up) if each is not None]:
            rows, bias = plane_rows(_weight(linear), self.experts), _bias(linear)
            unit = token_scale * rows.scale
            refined, exact = (functional.linear(x, w).float() * unit for x, w in (
                (rounded, rows.refined), (integers, rows.whole),
            ))  # fmt: skip
            if bias is not None:
                refined, exact = refined + bias, exact + bias.detach()
            dot = functional.linear(integers, rows.coarse).float() * token_scale
            fits.append(regressed(dot, exact))
            found.append((refined, dot * fits[-1][0].float() + fits[-1][1].float()))
        slopes, intercepts, errors = (torch.stack(each) for each in zip(*fits, strict=True))
        return found, CoarseFit(slopes, intercepts, errors, self.importance.bfloat16())

    def _down(self, h: Tensor) -> Tensor:
        return functional.linear(h, fake_int8(_weight(self.down)), _bias(self.down))


def regressed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(slope, intercept, standard deviation of what is left) of y on x, bf16 [width]; slope 1 where x never changes.

    x, y: fp32 [tokens, width].
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    dx, dy = x - mean_x, y - mean_y
    spread = dx.square().mean(0)
    still = spread <= 1e-12 * mean_x.square()
    slope = torch.where(still, 1.0, (dx * dy).mean(0) / torch.where(still, 1.0, spread))
    left = (dy - slope * dx).square().mean(0).sqrt()
    return slope.bfloat16(), (mean_y - slope * mean_x).bfloat16(), left.bfloat16()


@dataclass(frozen=True, slots=True)
class PlaneRows:
    """int8 rows in units of their scale, fp32 [rows]: all bits, the refined ones, the high ones; [rows, columns] each.

    The refined ones have the gradient of w / scale, the others none.
    """

    whole: Tensor
    refined: Tensor
    coarse: Tensor
    scale: Tensor


def plane_rows(weight: Tensor, experts: ExpertSpec) -> PlaneRows:
    """q = round(w / scale), scale = max|w| / 127, of b bits p 2^(8-b) + 2^(7-b) - 1/2, p = floor(q / 2^(8-b))."""
    whole, scale = int8_units(weight)
    units = weight / torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(1)
    refined, coarse = (high_bits(whole, bits) for bits in (experts.refined_bits, experts.router_bits))
    return PlaneRows(whole, straight_through(units, refined), coarse, scale)


def threshold_for_share(scores: Tensor, share: float) -> Tensor:
    """The threshold above which at most this share of the scores >= 0 lies, and as much of it as equal ones let."""
    left_out = scores.numel() - int(share * scores.numel())
    return scores.new_tensor(-1.0) if left_out <= 0 else torch.kthvalue(scores.flatten(), left_out).values


def _weight(linear: TensorModule) -> Tensor:
    if not isinstance(linear, Linear):
        raise TypeError("only floating-point weights learn")
    return linear.weight


def _bias(linear: TensorModule) -> Tensor | None:
    return linear.bias if isinstance(linear, Linear) else None
