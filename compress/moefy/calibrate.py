"""The stage `calibrate`: routers are trained and thresholds set on the weights as they will be served, tier by tier."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...models.checkpoint import Checkpoint, load_transformer, read_tensors
from ...models.errors import RecipeError
from ...models.experts import ExpertFFN
from ...models.host_memory import free_memory, give_back_freed_memory
from ...models.record import TierRecord
from ...models.spec import TransformerSpec
from ...models.transformer import Layer, Transformer
from ..calibration import Calibration
from ..material import Material, Workshop
from .plane_tiers import PlaneTiers
from .router_tiers import RouterTiers
from .settings import MoefySettings
from .tiers import experts_of

_MODEL, _FP32_BYTES = 1.3, 4
_PIECES = 448 << 20  # of a pass of 2,048 tokens, of 1,024 whose gradients are taken, and what lies freed between


@dataclass(frozen=True, slots=True)
class CalibrateStage:
    """Follows `moefy` and whatever changes weights after it. A tier is an absolute threshold a layer, chosen so that
    a lone token reads its share of bytes on the calibration text.
    """

    settings: MoefySettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        self.settings.check(spec)
        return replace(spec, num_tiers=1 + len(self.settings.tiers))

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return calibration.windows.numel() * self._kind.passes(len(self.settings.tiers))

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        spec = self.plan(source.spec)
        _check_memory(workshop.original, spec, workshop.calibration.windows.numel())
        model = load_transformer(source, torch.device("cpu"))
        with_experts_(model, spec)
        give_back_freed_memory()
        setter = self._kind(model, self.settings, workshop)
        notes = setter.prepare()
        wanted = [TierRecord(name, share) for name, share in self.settings.tiers.items()]
        tiers = tuple(setter.set_tier(index, tier) for index, tier in enumerate(wanted, 1))
        return Material(spec, lambda: _with_experts(source, model), tiers, notes)

    @property
    def _kind(self) -> type[PlaneTiers] | type[RouterTiers]:
        return PlaneTiers if self.settings.by_planes else RouterTiers


def calibration_memory(original: Checkpoint, spec: TransformerSpec, tokens: int) -> int:
    """Bytes that the stage takes at most on so many tokens, beside Python and torch.

    1.3 times the original model, and a buffer: the states of all tokens and what an FFN is given, fp32 [tokens,
    hidden] each; twice which experts they touch, a byte [tokens, experts]; and the pieces that are being computed.
    """
    ffns = [layer.ffn for layer in spec.layers]
    states = 2 * tokens * spec.hidden_size * _FP32_BYTES
    touched = 2 * tokens * max(ffn.experts.count(ffn.width) for ffn in ffns)
    return int(_MODEL * original.weight_bytes) + states + touched + _PIECES


def _check_memory(original: Checkpoint, spec: TransformerSpec, tokens: int) -> None:
    needed, free = calibration_memory(original, spec, tokens), free_memory()
    if needed > free:
        raise RecipeError(
            f"calibrate: {tokens:,} tokens take {needed >> 20:,} MiB of memory, {free >> 20:,} are free; "
            "lower calibration.sequences"
        )


def with_experts_(model: Transformer, spec: TransformerSpec) -> None:
    """Puts the twins with experts over the dense FFNs of a loaded model, and makes the model of that spec."""
    for layer, wanted in zip(model.layers, spec.layers, strict=True):
        if isinstance(layer, Layer):
            layer.ffn = ExpertFFN.of(layer.ffn, spec.hidden_size, wanted.ffn, spec.num_tiers)
    model.spec = spec


def _with_experts(source: Checkpoint, model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """The source's tensors as they are, then routers, fits, thresholds and compensation."""
    yield from read_tensors(source)
    for i, expert in enumerate(experts_of(model)):
        yield f"layers.{i}.ffn.thresholds", expert.thresholds
        yield f"layers.{i}.ffn.compensation", expert.compensation
        for name, value in expert.state_dict().items():
            if name.startswith(("router.", "fit.")):
                yield f"layers.{i}.ffn.{name}", value
