"""An int8 feed-forward network that routes by its own high bits, neuron by neuron or tile by tile.

A row q of int8 weights with scale s holds a coarse copy of itself: its high b bits p = floor(q / 2^(8-b)), worth
s (p 2^(8-b) + 2^(7-b) - 1/2). The coarse copies of gate and up foresee every neuron's value and how far off it may be
(coarse.py). Where that is in doubt and matters, lower bits are read as well: with q = 2^(8-b) p + r only dot(r, x) is
added to what is known. All of them make the value exact; the first few are nearly as good for fewer bytes. Rows of down
are read for values that matter (planes/choice.py). Activations enter these products as int8 with one scale a token, so
that every dot product is an integer and no sum depends on its order.

On the CPU the C++ of cpp/plane_ffn.cpp reads the high planes, then the low planes and rows of down that scores ask
for, and nothing else. The rest of the world computes all neurons and masks them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .activations import ACTIVATIONS
from .digit_linear import DigitWeights, digit_linear, pack_digits
from .int8_dynamic_linear import integer_product, quantize_tokens
from .native import Native, native
from .planes.bytes import WHOLE_BITS
from .planes.choice import NeuronScores
from .planes.coarse import CoarseFit, foresee
from .planes.layout import PackedPlanes, can_pack, pack_planes
from .planes.native import PLANE_ISAS, plane_ffn_native, plane_isa

_SCORED_TOKENS = 512  # at a time, whose products stay in a cache
Implementation = Literal["native", "torch"]


@dataclass(frozen=True)
class PlaneWeights:
    """The weights of one FFN. up, gate: int8 [width, hidden]; down: int8 [hidden, width]; gate is None without one.

    Scales are fp32, of up and gate [width], of down [hidden]; biases [width], [width], [hidden] or None.
    fit: what the coarse copies are worth, for one number of bits. refined_bits: of a refined neuron, the high ones too.
    packed: the same again in the order of the C++ kernel, for these numbers of bits; `packed_weights` makes it. whole:
    down again in the order of `digit_linear`, for whoever reads all of it.
    """

    up: Tensor
    down: Tensor
    up_scale: Tensor
    down_scale: Tensor
    fit: CoarseFit
    gate: Tensor | None = None
    gate_scale: Tensor | None = None
    up_bias: Tensor | None = None
    gate_bias: Tensor | None = None
    down_bias: Tensor | None = None
    refined_bits: int = WHOLE_BITS
    packed: PackedPlanes | None = None
    whole: DigitWeights | None = None

    def with_whole(self, whole: DigitWeights) -> "PlaneWeights":
        """The same, with down in the order of `digit_linear`."""
        packed = None if self.packed is None else replace(self.packed, whole=whole.layer)
        return replace(self, packed=packed, whole=whole)

    def without_rows(self) -> "PlaneWeights":
        """What the C++ reads, and no int8 rows."""
        gate = None if self.gate is None else self.gate[:0]
        return replace(self, up=self.up[:0], gate=gate, down=self.down[:0])

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that are there, without the packed ones."""
        return [each for each in vars(self).values() if isinstance(each, Tensor)] + self.fit.tensors


@dataclass(frozen=True)
class PlaneResult:
    """y [tokens, hidden]; counts int64 [2, tokens]: neurons whose row of down was read, and those that were refined."""

    y: Tensor
    counts: Tensor

    @property
    def active(self) -> Tensor:
        """Neurons of each token whose row of down was read: int64 [tokens]."""
        return self.counts[0]

    @property
    def fine(self) -> Tensor:
        """Neurons whose low bits were read, whether or not their value was then worth a row: int64 [tokens]."""
        return self.counts[1]


def plane_ffn(
    x: Tensor,
    weights: PlaneWeights,
    thresholds: Tensor,
    bits: int,
    activation: str,
    tile: int = 1,
    together: bool = False,
) -> PlaneResult:
    """y[t] = down_bias + sum over the computed neurons n of down[:, n] h[t, n].

    h = act(up x), or act(gate x) * (up x): from the refined bits where refined, else as foreseen. Who is computed and
    refined at thresholds, fp32 [tokens, 2], planes/choice.py says of the scores of `plane_scores`; together: whether
    tokens choose together, so that a row depends on those beside it. x: floating point [tokens, hidden], computed in
    fp32. A token that is not finite gives no numbers. Raises ValueError for shapes, MemoryError where there is none to
    work in.
    """
    _check(x, weights, thresholds)
    library = native() if x.is_cpu else None
    requires_grad = torch.is_grad_enabled() and any(each.requires_grad for each in (x, *weights.tensors))
    isa = plane_isa(library) if library else None
    packed = weights.packed if tile == 1 and weights.packed is not None and weights.packed.bits == bits else None
    device = "cpu" if x.is_cpu else x.device.type
    if packed and library and isa and choose_plane_ffn(device, x.shape[0], requires_grad, isa) == "native":
        return PlaneResult(*plane_ffn_native(x, packed, thresholds, activation, library, isa, together))
    return plane_ffn_torch(x, weights, thresholds, bits, activation, tile, together)


def choose_plane_ffn(device: str, tokens: int, requires_grad: bool, isa: str | None) -> Implementation:
    """Which implementation answers for weights that are packed; `isa` is None where the C++ library is missing.

    The number of tokens does not matter, so that a row has one result alone and in any batch.
    """
    fits = device == "cpu" and isa in PLANE_ISAS[1:]  # without vector instructions torch's products are faster
    return "native" if fits and tokens and not requires_grad else "torch"


def packed_weights(weights: PlaneWeights, bits: int, tile: int = 1) -> PlaneWeights:
    """The weights with planes in the order of the C++ kernel where `plane_ffn` would use them, else with down in that
    of `digit_linear`.

    It costs the int8 weights once more: beside the two orders, the full tier keeps the rows that its linears read.
    """
    library: Native | None = native() if weights.up.is_cpu else None
    fits = tile == 1 and can_pack(bits, weights.up.shape[1])
    if not fits or library is None or choose_plane_ffn("cpu", 1, False, plane_isa(library)) == "torch":
        return weights.with_whole(pack_digits(weights.down, weights.down_scale, weights.down_bias))
    return replace(weights, packed=pack(weights, bits))


def pack(weights: PlaneWeights, bits: int) -> PackedPlanes:
    """The order of cpp/plane_ffn.cpp and of kernels/planes/launches.py. Raises ValueError as `pack_planes` does."""
    down = (weights.down, weights.down_scale, weights.down_bias)
    return pack_planes(_scored(weights), down, weights.fit, bits, weights.refined_bits)


def plane_ffn_torch(
    x: Tensor,
    weights: PlaneWeights,
    thresholds: Tensor,
    bits: int,
    activation: str,
    tile: int = 1,
    together: bool = False,
) -> PlaneResult:
    """The same, all neurons computed and masked afterwards."""
    found = plane_neurons(x, weights, bits, activation)
    width = len(weights.up)
    scores = found.scores(weights.fit, tile)
    chosen = scores.chosen_together(thresholds) if together else scores.chosen(thresholds)
    computed, refined = (_per_neuron(each, tile, width) for each in chosen)
    h = torch.where(computed, torch.where(refined, found.refined, found.rough), torch.zeros_like(found.rough))
    whole = weights.whole or pack_digits(weights.down, weights.down_scale, weights.down_bias)
    y = digit_linear(h + found.token_scale * 0.0, whole)  # 0, or no number
    return PlaneResult(y.to(x.dtype), torch.stack([computed.sum(-1), refined.sum(-1)]))


class PlaneNeurons(NamedTuple):
    """h of every neuron as foreseen, how far off that may be, and refined, [tokens, width]; token_scale [tokens, 1]."""

    rough: Tensor
    deviation: Tensor
    refined: Tensor
    token_scale: Tensor

    def scores(self, fit: CoarseFit, tile: int = 1) -> NeuronScores:
        """What decides at any thresholds: fp32 [tokens, tiles] each."""
        importance = fit.importance.float()
        values = (self.rough.abs(), self.deviation, self.refined.abs())
        return NeuronScores(*(tile_scores(each * importance, tile) for each in values))


def plane_neurons(x: Tensor, weights: PlaneWeights, bits: int, activation: str) -> PlaneNeurons:
    """Every neuron of every token, whether or not it would be read."""
    integers, scale = quantize_tokens(x)
    coarse = [_dot(integers, weight, bits) for weight, _, _ in _scored(weights)]
    rough, deviation = foresee(_fitted(coarse, scale, weights.fit), weights.fit, activation)
    refined = [
        _scaled(_dot(integers, weight, weights.refined_bits), scale, row_scale, bias)
        for weight, row_scale, bias in _scored(weights)
    ]
    return PlaneNeurons(rough, deviation, _product(refined, ACTIVATIONS[activation]), scale)


def plane_scores(x: Tensor, weights: PlaneWeights, bits: int, activation: str, tile: int = 1) -> NeuronScores:
    """What decides at any thresholds: fp32 [tokens, tiles] each."""
    parts = [
        plane_neurons(part, weights, bits, activation).scores(weights.fit, tile)
        for part in torch.split(x, _SCORED_TOKENS)
    ]
    return NeuronScores(*(torch.cat(each) for each in zip(*parts, strict=True)))


def plane_products(x: Tensor, weights: PlaneWeights, bits: int) -> list[tuple[Tensor, Tensor]]:
    """(dot of the coarse row with x, exact product) of gate, where there is one, and up: fp32 [tokens, width] each.

    What a fit regresses: the second on the first.
    """
    integers, scale = quantize_tokens(x)
    found = []
    for weight, row_scale, bias in _scored(weights):
        whole = _dot(integers, weight, WHOLE_BITS)
        found.append((_dot(integers, weight, bits) * scale, _scaled(whole, scale, row_scale, bias)))
    return found


def tile_scores(scores: Tensor, tile: int) -> Tensor:
    """The Euclidean norm over each `tile` neurons in a row, the last tile shorter: [tokens, width] -> [.., tiles]."""
    if tile == 1:
        return scores
    padded = functional.pad(scores, (0, -scores.shape[-1] % tile))
    return padded.view(*padded.shape[:-1], -1, tile).square().sum(-1).sqrt()


def _check(x: Tensor, weights: PlaneWeights, thresholds: Tensor) -> None:
    hidden = weights.up.shape[1]
    if x.dim() != 2 or x.shape[1] != hidden:
        raise ValueError(f"x must be [tokens, {hidden}] for these weights, it is {list(x.shape)}")
    if thresholds.shape != (x.shape[0], 2) or thresholds.dtype != torch.float32:
        raise ValueError(
            f"thresholds must be float32 [{x.shape[0]}, 2], they are {thresholds.dtype} {list(thresholds.shape)}"
        )


def _scored(weights: PlaneWeights) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """(weight, scale, bias) of gate, where there is one, and up."""
    up = (weights.up, weights.up_scale, weights.up_bias)
    if weights.gate is None or weights.gate_scale is None:
        return [up]
    return [(weights.gate, weights.gate_scale, weights.gate_bias), up]


def _dot(integers: Tensor, weight: Tensor, bits: int) -> Tensor:
    """Multiplies by the high bits of rows, p 2^(8-b) + 2^(7-b) - 1/2: [tokens, width], sums of integers and halves."""
    under = WHOLE_BITS - bits
    dot = integer_product(integers, weight >> under)
    return dot.mul_(2.0**under).add_((2.0 ** (under - 1) - 0.5) * integers.sum(-1, keepdim=True))


def _fitted(dots: list[Tensor], token_scale: Tensor, fit: CoarseFit) -> list[Tensor]:
    """Coarse products of gate, where there is one, and up."""
    rows = zip(dots, fit.scale.float(), fit.bias.float(), strict=True)
    return [_scaled(dot, token_scale, scale, bias) for dot, scale, bias in rows]


def _scaled(dot: Tensor, token_scale: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    y = dot * (token_scale * weight_scale)
    return y if bias is None else y + bias.float()


def _product(parts: list[Tensor], act: Callable[[Tensor], Tensor]) -> Tensor:
    return act(parts[0]) if len(parts) == 1 else act(parts[0]) * parts[1]


def _per_neuron(passed: Tensor, tile: int, width: int) -> Tensor:
    return passed if tile == 1 else passed.repeat_interleave(tile, dim=-1)[..., :width]
