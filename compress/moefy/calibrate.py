"""The stage `calibrate`: routers are trained and thresholds set on the weights as they will be served, tier by tier."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.families.registry import is_sparse_tensor
from ...models.ffn.registry import SPARSE_FFNS
from ...models.host_memory import give_back_freed_memory
from ...models.record import TierRecord
from ...models.spec import BIT_PLANES, TransformerSpec
from ...models.transformer import Layer, Transformer, whole_of
from ..calibration import Calibration
from ..material import Material, Workshop
from ..stage import Fit, Stage
from ..walk import BATCH_TOKENS
from .importance import BACKWARD_TOKENS, HEAD_ROWS, HEAD_TOKENS
from .input_tiers import graded_material, graded_memory, graded_passes, graded_spec
from .methods import TIER_SETTERS
from .mixture_tiers import mixture_material, mixture_spec
from .settings import MoefySettings
from .tiers import THRESHOLDS, TierSetter

MODEL_PART, _CALIBRATED_PART, FP32_BYTES = 1.3, 2.1, 4
LOADED_BYTES = 96 << 20  # tokenizer, kernels and modules that are first needed on the way
_HISTOGRAMS = 2 << 20  # of the scores of one layer: seen before, now, and of steps


@dataclass(frozen=True, slots=True)
class CalibrateStage(Stage):
    """Follows `moefy` and whatever changes weights after it. A tier is an absolute threshold a layer, chosen so that
    a lone token reads its share of bytes on the calibration text.
    """

    name = "calibrate"
    settings_type = MoefySettings
    takes_mixtures = True

    settings: MoefySettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        if spec.is_mixture:
            return mixture_spec(spec, self.settings)
        if self.settings.grain_of(spec) == "inputs":
            return graded_spec(spec, self.settings)
        self.settings.check(spec)
        return replace(spec, num_tiers=1 + len(self.settings.tiers))

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        if spec.is_mixture:
            return calibration.windows.numel() * len(self.settings.tiers)
        if self.settings.grain_of(spec) == "inputs":
            return graded_passes(len(self.settings.tiers), calibration)
        return calibration.windows.numel() * self._kind.passes(len(self.settings.tiers))

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        if spec.is_mixture:
            return ()
        if spec.is_graded:
            return (THRESHOLDS,)
        return (THRESHOLDS, *self._kind.fits(spec.hidden_size))

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        spec = self.plan(source.spec)
        if spec.is_mixture:
            return mixture_material(source, spec, self.settings, workshop)
        if spec.is_graded:
            return graded_material(source, spec, self.settings, workshop)
        model = workshop.load(source)
        with_sparse_ffns_(model, spec)
        give_back_freed_memory()
        setter = self._kind(model, self.settings, workshop)
        notes = setter.prepare()
        wanted = [TierRecord(name, share) for name, share in self.settings.tiers.items()]
        tiers = tuple(setter.set_tier(index, tier) for index, tier in enumerate(wanted, 1))
        return Material(spec, lambda: _with_sparse_ffns(source, model), tiers, notes)

    def memory(self, original: int, planned: int, spec: TransformerSpec, calibration: Calibration) -> int:
        """1.3 times the original model, or twice the calibrated one where that is more, since bit planes are a second
        copy; and a buffer. Of all tokens it holds the states and what an FFN is given, and which experts they touch;
        for trained routers that once more, and three times the norms of all experts; of a batch, scores, doubts and
        products of every neuron; or of 1,024 tokens the states before every layer, the layers' Fisher matrices, and
        logits. What lies freed between pieces is counted as much again.
        """
        if spec.is_mixture:
            return int(MODEL_PART * original) + LOADED_BYTES
        if spec.is_graded:
            return graded_memory(original, planned, spec)
        tokens, ffns, hidden = calibration.windows.numel(), [layer.ffn for layer in spec.layers], spec.hidden_size
        width, routed = max(ffn.width for ffn in ffns), ffns[0].experts.router != BIT_PLANES
        experts = max(ffn.experts.count(ffn.width) for ffn in ffns)
        kept = tokens * (2 * hidden * FP32_BYTES + 2 * experts)
        kept += tokens * (2 * hidden + 3 * experts) * FP32_BYTES if routed else 0
        batch = BATCH_TOKENS * (8 * width + 4 * hidden)
        head = 3 * HEAD_TOKENS * spec.vocab_size + HEAD_ROWS * hidden
        gradients = len(ffns) * hidden * (BACKWARD_TOKENS + hidden) + head
        model = int(max(MODEL_PART * original, _CALIBRATED_PART * planned))
        return model + kept + 2 * FP32_BYTES * max(batch, gradients) + len(ffns) * _HISTOGRAMS + LOADED_BYTES

    @property
    def _kind(self) -> type[TierSetter[Any]]:
        return TIER_SETTERS[self.settings.routed_by]


def with_sparse_ffns_(model: Transformer, spec: TransformerSpec) -> None:
    """Puts their sparse twins over the dense FFNs of a loaded model, and makes the model of that spec."""
    for layer, wanted in zip(model.layers, spec.layers, strict=True):
        if isinstance(layer, Layer):
            twin = SPARSE_FFNS[wanted.ffn.experts.router]
            layer.ffn = twin.of(layer.ffn, spec.hidden_size, wanted.ffn, spec.num_tiers)
    model.spec, model.whole = spec, whole_of(model)


def _with_sparse_ffns(source: Checkpoint, model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """The source's tensors as they are, then what is the twins' own."""
    yield from read_tensors(source)
    yield from ((name, value.cpu()) for name, value in model.state_dict().items() if is_sparse_tensor(name))
