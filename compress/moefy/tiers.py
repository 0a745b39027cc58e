"""What setting a tier takes, whoever routes: a walk at that tier, constants for what it leaves out, and a record."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...models.experts import ExpertFFN
from ...models.ffn import FFN
from ...models.linear import dense_weight
from ...models.record import TierRecord
from ...models.transformer import Layer, Transformer
from ..material import Workshop
from ..walk import Constant, walk
from .union import expected_unions


def experts_of(model: Transformer) -> Iterator[ExpertFFN]:
    """Of each layer."""
    for layer in model.layers:
        if isinstance(layer, Layer):
            yield expert_of(layer.ffn)


def expert_of(ffn: FFN) -> ExpertFFN:
    """The FFN itself. Raises TypeError for one without experts."""
    if not isinstance(ffn, ExpertFFN):
        raise TypeError("only a model with experts is calibrated")
    return ffn


_PARTS = tuple(i / 8 for i in range(8))  # of the way from the tier before; 0 is just beyond it


@dataclass(frozen=True, slots=True)
class Decided:
    """active: of each batch, whether anything of an expert is read, bool [.., experts]. computed: the share of experts
    that the threshold computes. bytes_at: what a lone token reads of the layer where the threshold were another one.
    """

    active: Sequence[Tensor]
    computed: float
    bytes_at: Callable[[float], float]


Decide = Callable[[int, ExpertFFN, Sequence[Tensor]], Decided]  # sets the thresholds too


@dataclass(slots=True)
class TierWalk:
    """One walk over calibration windows at tier `index`, each layer on what the layers before it give there."""

    model: Transformer
    workshop: Workshop
    index: int
    compensate: bool
    windows: Tensor
    layers: list[float] = field(default_factory=list)
    unions: list[dict[int, float]] = field(default_factory=list)
    between: list[float] = field(default_factory=lambda: [0.0] * len(_PARTS))  # bytes

    def run(self, tier: TierRecord, decide: Decide, what: str) -> TierRecord:
        """The tier with what was measured of it. `decide` sets each layer's thresholds, and says what they do."""

        def visit(layer: int, ffn: FFN, given: Sequence[Tensor]) -> Constant | None:
            expert = expert_of(ffn)
            expert.compensation[self.index] = 0
            self._note(expert, decide(layer, expert, given))
            return mean_left_out(expert, given, self.index) if self.compensate else None

        def tell(done: int, of: int) -> None:
            self.workshop.progress(what, done, of)

        read, neurons = walk(self.model, self.windows, visit, self.index, tell)
        whole = self.model.whole_ffn[0]
        union = {str(size): sum(each[size] for each in self.unions) / len(self.unions) for size in self.unions[0]}
        figures = {
            "bytes_share": read, "neurons_share": neurons, "tokens": self.windows.numel(), "union_by_batch": union,
            "active_by_layer": self.layers,
            "between": [[part, spent / whole] for part, spent in zip(_PARTS, self.between, strict=True)],
        }  # fmt: skip
        return replace(tier, calibrated=figures)

    def _note(self, expert: ExpertFFN, decided: Decided) -> None:
        before, limit = (float(each) for each in expert.thresholds[self.index - 1 : self.index + 1, 0])
        for i, part in enumerate(_PARTS):
            self.between[i] += decided.bytes_at(before + (limit - before) * part)
        active = torch.cat([each.flatten(0, -2) for each in decided.active])
        self.layers.append(decided.computed)
        self.unions.append(expected_unions(active, self.workshop.seed))


def mean_left_out(expert: ExpertFFN, given: Sequence[Tensor], index: int) -> Constant:
    """Of what this tier gives without a constant: the one that makes up best, in the mean square, for what it leaves
    out, fp32 [hidden]. It is put into `compensation` too.
    """
    down, bias = dense_weight(expert.down), expert.down.bias
    dense = down @ _mean(map(expert.hidden, given)).to(down)
    whole = dense if bias is None else dense + bias

    def constant(outputs: Sequence[Tensor]) -> Tensor:
        expert.compensation[index] = whole - _mean(outputs).to(whole)
        return expert.compensation[index]

    return constant


def _mean(parts: Iterable[Tensor]) -> Tensor:
    """Over all but the last dimension of all of them, fp64."""
    sums = [(part.flatten(0, -2).sum(0, dtype=torch.float64), part.shape[:-1].numel()) for part in parts]
    return torch.stack([total for total, _ in sums]).sum(0) / sum(count for _, count in sums)
