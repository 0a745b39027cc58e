"""Who would be served by another router: stand-ins that choose experts by what no router can know, or by chance.

Weights, tier and order of the neurons stay those of the finished model. Both choose for nothing: they read no byte.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...compress.moefy.norms import tile_norms
from ...compress.moefy.thresholds import ScoreHistogram
from ...compress.moefy.tiers import mean_left_out
from ...compress.walk import Constant, walk
from ...models.ffn.dense import FFN
from ...models.ffn.routed import RoutedFFN
from ...models.linear import TensorModule, dense_weight
from ...models.progress import Count
from ...models.record import TierRecord
from ...models.spec import NORM_REGRESSION, ExpertSpec
from ...models.transformer import Layer, Transformer
from ..retention.masks import random_tiles

PERFECT, RANDOM = STAND_INS = ("perfect router", "random router")
_HALF = 0.5  # between chosen (1) and not (0)
Scores = Callable[[Tensor], Tensor]  # [.., hidden] -> [.., experts]


@dataclass(frozen=True, slots=True)
class StandIn:
    """Which stand-in, and the part of each layer's experts that it chooses.

    Thresholds and constants are set on `windows` [sequences, length]; without compensate there are no constants.
    """

    kind: str
    shares: Sequence[float]
    windows: Tensor
    compensate: bool
    seed: int


def layer_shares(tier: TierRecord, measured: float) -> list[float]:
    """Shares of the layers as the tier was calibrated, scaled to the share of neurons that was measured of it."""
    factor = measured / float(tier.calibrated["neurons_share"])
    return [min(1.0, factor * float(share)) for share in tier.calibrated["active_by_layer"]]


class FreeRouter(TensorModule):
    """Scores by any function; it has no weights, so that nothing is read."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self._scores = scores

    def forward(self, x: Tensor) -> Tensor:
        return self._scores(x)


def with_stand_ins_(model: Transformer, operating_point: int, wanted: StandIn, progress: Count | None = None) -> None:
    """Puts stand-ins over the experts of a loaded model and sets their tier at this point, layer by layer."""
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    twins = [_stand_in(layer.ffn, model, i, wanted) for i, layer in enumerate(layers)]
    for layer, twin in zip(layers, twins, strict=True):
        layer.ffn = twin

    def decide(i: int, _: FFN, given: Sequence[Tensor]) -> Constant | None:
        ffn = twins[i]
        ffn.thresholds[operating_point] = _HALF if wanted.kind == RANDOM else _threshold(ffn, given, wanted.shares[i])
        ffn.compensation[operating_point] = 0
        return mean_left_out(ffn, given, operating_point) if wanted.compensate else None

    walk(model, wanted.windows, decide, operating_point, progress)
    model.operating_point = operating_point


def _stand_in(ffn: FFN, model: Transformer, index: int, wanted: StandIn) -> RoutedFFN:
    spec = model.spec.layers[index].ffn
    experts = ExpertSpec(spec.experts.size, NORM_REGRESSION, router_width=1)
    twin = RoutedFFN.of(ffn, model.spec.hidden_size, replace(spec, experts=experts), model.spec.num_tiers)
    if wanted.kind == RANDOM:
        scores = _by_chance(twin.num_tiles, wanted.shares[index], wanted.seed * 1000 + index)
    else:
        scores = _true_norms(twin)
    twin.router = FreeRouter(scores)
    return twin


def _true_norms(ffn: RoutedFFN) -> Scores:
    """The norm of what each expert adds to the output; of a single neuron |h| times its column's norm."""

    def norms(x: Tensor) -> Tensor:
        h = ffn.hidden(x).flatten(0, -2)
        return tile_norms(h, dense_weight(ffn.down), ffn.tile).view(*x.shape[:-1], -1)

    return norms


def _by_chance(experts: int, share: float, seed: int) -> Scores:
    """1 for the chosen, else 0: as many for every token, others for each."""
    seen = 0

    def chosen(x: Tensor) -> Tensor:
        nonlocal seen
        tokens = x.shape[:-1].numel()
        seen += tokens
        return random_tiles(tokens, experts, share, seed, seen - tokens).float().view(*x.shape[:-1], -1)

    return chosen


def _threshold(ffn: RoutedFFN, given: Sequence[Tensor], share: float) -> float:
    """One for the layer, so that a token may use more experts than another."""
    if share >= 1:
        return -1.0
    histogram = ScoreHistogram()
    for x in given:
        histogram.add(ffn.scores(x))
    return histogram.threshold_for_share(share)
