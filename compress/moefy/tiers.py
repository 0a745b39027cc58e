"""What setting a tier takes, whoever scores: a walk at that tier, constants for what it leaves out, and a record."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ...models.ffn.dense import FFN
from ...models.ffn.sparse import SparseFFN
from ...models.linear import dense_weight
from ...models.progress import Count
from ...models.record import TierRecord
from ...models.transformer import Layer, Transformer
from ..material import Workshop
from ..stage import Fit
from ..walk import Constant, walk
from ..windows import Windows, num_tokens
from .settings import MoefySettings
from .union import expected_unions

THRESHOLDS = Fit("thresholds of tiers", 1024, "a tier's share of bytes to about half a percent of all")
Twin = TypeVar("Twin", bound=SparseFFN)


def twins_of(model: Transformer, kind: type[Twin]) -> Iterator[Twin]:
    """The FFN of each layer. Raises TypeError for one of another kind."""
    for ffn in (layer.ffn for layer in model.layers if isinstance(layer, Layer)):
        if not isinstance(ffn, kind):
            raise TypeError(f"{type(ffn).__name__} is calibrated by another method than {kind.__name__}")
        yield ffn


class TierSetter(ABC, Generic[Twin]):
    """Sets the tiers of one loaded model. kind: the twin that a method is for; ffns: those of the layers."""

    kind: type[Twin]

    def __init__(self, model: Transformer, settings: MoefySettings, workshop: Workshop) -> None:
        self.model, self.settings, self.workshop = model, settings, workshop
        self.ffns: Sequence[Twin] = list(twins_of(model, self.kind))

    @staticmethod
    @abstractmethod
    def passes(tiers: int) -> float:
        """How often the calibration text goes through the model."""

    @staticmethod
    def fits(hidden: int) -> tuple[Fit, ...]:
        """What it learns from the text beside thresholds, of a model of this hidden size; by default nothing."""
        return ()

    @abstractmethod
    def prepare(self) -> dict[str, Any]:
        """Finds what scores, on what the dense model's FFNs are given; gives notes for the record."""

    @abstractmethod
    def set_tier(self, operating_point: int, tier: TierRecord) -> TierRecord:
        """Sets thresholds and constants of a tier; after that of the tier before it. With what was measured."""

    def teller(self, what: str) -> Count:
        return lambda done, of: self.workshop.progress(f"calibrate: {what}", done, of)


_PARTS = tuple(i / 8 for i in range(8))  # of the way from the tier before; 0 is just beyond it


@dataclass(frozen=True, slots=True)
class Decided:
    """active: of each batch, whether anything of a tile is read, bool [.., tiles]. computed: the share of tiles that
    the threshold computes. bytes_at: what a lone token reads of the layer where the threshold were another one.
    """

    active: Sequence[Tensor]
    computed: float
    bytes_at: Callable[[float], float]


Decide = Callable[[int, Sequence[Tensor]], Decided]  # of a layer and what its FFN is given; sets the thresholds too


@dataclass(slots=True)
class TierWalk:
    """One walk over calibration windows at an operating point, each layer on what the layers before it give there."""

    setter: TierSetter[Any]
    operating_point: int
    windows: Windows
    layers: list[float] = field(default_factory=list)
    unions: list[dict[int, float]] = field(default_factory=list)
    between: list[float] = field(default_factory=lambda: [0.0] * len(_PARTS))  # bytes

    def run(self, tier: TierRecord, decide: Decide, progress: Count) -> TierRecord:
        """The tier with what was measured of it. `decide` sets each layer's thresholds, and says what they do."""
        model, ffns = self.setter.model, self.setter.ffns
        compensate = self.setter.settings.compensates(ffns[0].gate is not None)

        def visit(layer: int, _: FFN, given: Sequence[Tensor]) -> Constant | None:
            ffn = ffns[layer]
            ffn.compensation[self.operating_point] = 0
            self._note(ffn, decide(layer, given))
            return mean_left_out(ffn, given, self.operating_point) if compensate else None

        read, neurons = walk(model, self.windows, visit, self.operating_point, progress)
        whole = model.whole.bytes
        union = {str(size): sum(each[size] for each in self.unions) / len(self.unions) for size in self.unions[0]}
        figures = {
            "bytes_share": read, "neurons_share": neurons, "tokens": num_tokens(self.windows), "union_by_batch": union,
            "active_by_layer": self.layers,
            "between": [[part, spent / whole] for part, spent in zip(_PARTS, self.between, strict=True)],
        }  # fmt: skip
        return replace(tier, calibrated=figures)

    def _note(self, ffn: SparseFFN, decided: Decided) -> None:
        before, threshold = ffn.thresholds[self.operating_point - 1 : self.operating_point + 1, 0].tolist()
        for i, part in enumerate(_PARTS):
            self.between[i] += decided.bytes_at(before + (threshold - before) * part)
        active = torch.cat([each.flatten(0, -2) for each in decided.active])
        self.layers.append(decided.computed)
        self.unions.append(expected_unions(active, self.setter.workshop.seed))


def mean_left_out(ffn: SparseFFN, given: Sequence[Tensor], operating_point: int) -> Constant:
    """Makes of this tier's outputs the constant, fp32 [hidden], that makes up best for what the tier leaves out.

    Best is in the mean square; the outputs are those without a constant. It is put into `compensation` too.
    """
    down, bias = dense_weight(ffn.down), ffn.down.bias
    dense = down @ _mean(map(ffn.hidden, given)).to(down)
    whole = dense if bias is None else dense + bias

    def constant(outputs: Sequence[Tensor]) -> Tensor:
        ffn.compensation[operating_point] = whole - _mean(outputs).to(whole)
        return ffn.compensation[operating_point]

    return constant


def _mean(parts: Iterable[Tensor]) -> Tensor:
    """The mean over all but the last dimension of all parts, fp64."""
    sums = [(part.flatten(0, -2).sum(0, dtype=torch.float64), part.shape[:-1].numel()) for part in parts]
    return torch.stack([total for total, _ in sums]).sum(0) / sum(count for _, count in sums)
