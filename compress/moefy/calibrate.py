"""The stage `calibrate`: routers are trained and thresholds set on the weights as they will be served, tier by tier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models.checkpoint import Checkpoint, load_transformer, read_tensors
from ...models.experts import ExpertFFN
from ...models.ffn import FFN
from ...models.record import TierRecord
from ...models.spec import TransformerSpec
from ...models.transformer import Layer, Transformer
from ..calibration import Calibration
from ..material import Material, Workshop
from ..walk import walk
from .settings import MoefySettings
from .thresholds import ScoreHistogram
from .train import train_routers_
from .union import expected_unions

_BISECTIONS = 30
Shares = tuple[float, float]  # of a layer's neurons: computed, and computed from all bits


@dataclass(frozen=True, slots=True)
class CalibrateStage:
    """Follows `moefy` and whatever changes weights after it. A tier is an absolute threshold a layer, chosen so that
    a lone token reads its share of bytes on the calibration text; layers are set in order, each on what it is given.
    """

    settings: MoefySettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        self.settings.check(spec)
        return replace(spec, num_tiers=1 + len(self.settings.tiers))

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return calibration.windows.numel() * (1 + 3 * len(self.settings.tiers))

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        spec = self.plan(source.spec)
        model = load_transformer(source, torch.device("cpu"))
        with_experts_(model, spec)
        windows = workshop.calibration.windows
        notes = {} if self.settings.by_planes else train_routers_(model, workshop, min(self.settings.tiers.values()))
        histograms = self._observe(model, windows, workshop)
        tiers = []
        for index, (name, share) in enumerate(self.settings.tiers.items(), 1):
            shares = self._shares(model, histograms, share)
            tiers.append(self._set_tier(model, windows, index, TierRecord(name, share), shares, workshop))
        return Material(spec, lambda: _with_experts(source, model), tuple(tiers), notes)

    def _observe(self, model: Transformer, windows: Tensor, workshop: Workshop) -> list[ScoreHistogram]:
        """How the scores of each layer are spread in the dense model."""
        histograms = [ScoreHistogram() for _ in model.layers]

        def watch(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
            for x in given:
                histograms[index].add(_expert(ffn).scores(x))

        walk(model, windows, watch, progress=lambda n, of: workshop.progress("calibrate: scores", n, of))
        return histograms

    def _shares(self, model: Transformer, histograms: Sequence[ScoreHistogram], share: float) -> list[Shares]:
        """What each layer computes at this tier, so that together they read its share of bytes."""
        ffns = list(_experts(model))
        budget = share * sum(ffn.whole_bytes for ffn in ffns)
        part = self.settings.fine_part(ffns[0].gate is not None)
        if self.settings.by_energy(ffns[0].gate is not None):
            return [(kept, part * kept) for kept in self._by_energy(ffns, histograms, budget)]
        left = budget - sum(ffn.fixed_bytes for ffn in ffns)
        kept = left / sum(map(self._all_bytes, ffns))
        if kept <= 1 or not ffns[0].by_planes:
            return [(min(1.0, kept), part * min(1.0, kept))] * len(ffns)
        low = sum(ffn.low_bytes for ffn in ffns)  # every neuron, and as many from all bits as the rest pays for
        return [(1.0, min(1.0, (left - sum(ffn.down_bytes for ffn in ffns)) / low))] * len(ffns)

    def _by_energy(self, ffns: Sequence[ExpertFFN], histograms: Sequence[ScoreHistogram], budget: float) -> list[float]:
        """The neurons of each layer at one discarded share of energy, the least that the budget pays for."""
        low, high = 0.0, 1.0  # of each layer's energy that goes
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            kept = self._kept(histograms, middle)
            spent = sum(ffn.fixed_bytes + u * self._all_bytes(ffn) for ffn, u in zip(ffns, kept, strict=True))
            low, high = (middle, high) if spent > budget else (low, middle)
        return self._kept(histograms, high)

    def _kept(self, histograms: Sequence[ScoreHistogram], discarded: float) -> list[float]:
        return [each.share_above(each.threshold_for_energy(discarded)) for each in histograms]

    def _all_bytes(self, ffn: ExpertFFN) -> float:
        """What is read beyond the router where every neuron is computed, the tier's part of them from all bits."""
        if not ffn.by_planes:
            return ffn.whole_bytes
        return ffn.down_bytes + self.settings.fine_part(ffn.gate is not None) * ffn.low_bytes

    def _set_tier(
        self,
        model: Transformer,
        windows: Tensor,
        index: int,
        tier: TierRecord,
        shares: Sequence[Shares],
        workshop: Workshop,
    ) -> TierRecord:
        """Thresholds of one tier in every layer, each on what the layers before it give at this tier."""
        layers, unions = [], []

        def decide(layer: int, ffn: FFN, given: Sequence[Tensor]) -> None:
            expert = _expert(ffn)
            scores = [expert.scores(x).flatten(0, -2) for x in given]
            expert.thresholds[index] = torch.tensor(self._limits(expert, scores, shares[layer]))
            expert.compensation[index] = 0
            active = torch.cat(scores) > expert.thresholds[index, 0]
            layers.append(float(active.float().mean()))
            unions.append(expected_unions(active, workshop.seed))
            if self.settings.compensate:
                expert.compensation[index] = mean_left_out(expert, given, index, model)

        what = f"calibrate: tier {tier.name}"
        read, neurons = walk(model, windows, decide, index, lambda n, of: workshop.progress(what, n, of))
        union = {str(size): _mean([each[size] for each in unions]) for size in unions[0]}
        figures = {
            "bytes_share": read, "neurons_share": neurons, "tokens": windows.numel(), "union_by_batch": union,
            "active_by_layer": layers,
        }  # fmt: skip
        return replace(tier, calibrated=figures)

    def _limits(self, expert: ExpertFFN, scores: Sequence[Tensor], shares: Shares) -> tuple[float, float]:
        """(active above, exact above); a share of all is a threshold below every score.

        Where bit planes score 0 nothing is lost; where a router foresees 0, it knows no better than that.
        """
        histogram = ScoreHistogram()
        for each in scores:
            histogram.add(each)
        share, fine = shares
        everything = share >= 1 or (not expert.by_planes and share > histogram.nonzero_share)
        active = -1.0 if everything else histogram.threshold_for_share(share)
        return active, active if fine == share else max(active, histogram.threshold_for_share(fine))


def with_experts_(model: Transformer, spec: TransformerSpec) -> None:
    """Puts the twins with experts over the dense FFNs of a loaded model, and makes the model of that spec."""
    for layer, wanted in zip(model.layers, spec.layers, strict=True):
        if isinstance(layer, Layer):
            layer.ffn = ExpertFFN.of(layer.ffn, spec.hidden_size, wanted.ffn, spec.num_tiers)
    model.spec = spec


def mean_left_out(expert: ExpertFFN, given: Sequence[Tensor], index: int, model: Transformer) -> Tensor:
    """The constant that makes up best, in the mean square, for what this tier leaves out: fp32 [hidden]."""
    total, tokens = torch.zeros(expert.hidden_size, dtype=torch.float64), 0
    for x in given:
        missing = expert.dense(x) - expert(x, model.compute_of([index] * len(x)))
        total += missing.double().sum((0, 1))
        tokens += missing.shape[0] * missing.shape[1]
    return (total / tokens).float()


def _with_experts(source: Checkpoint, model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """The source's tensors as they are, then routers, thresholds and compensation."""
    yield from read_tensors(source)
    for i, expert in enumerate(_experts(model)):
        yield f"layers.{i}.ffn.thresholds", expert.thresholds
        yield f"layers.{i}.ffn.compensation", expert.compensation
        for name, value in expert.router.named_parameters() if expert.router else ():
            yield f"layers.{i}.ffn.router.{name}", value.detach()


def _experts(model: Transformer) -> Iterator[ExpertFFN]:
    for layer in model.layers:
        if isinstance(layer, Layer):
            yield _expert(layer.ffn)


def _expert(ffn: FFN) -> ExpertFFN:
    if not isinstance(ffn, ExpertFFN):
        raise TypeError("only a model with experts is calibrated")
    return ffn


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
