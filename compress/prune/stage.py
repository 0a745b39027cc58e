"""The stage `prune`: whole FFN neurons go, and a bias takes the place of what they gave on average."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import RecipeError
from ...models.ffn.dense import FFN
from ...models.finite import naming
from ...models.linear import dense_weight
from ...models.seeds import folded
from ...models.spec import TransformerSpec
from ...models.suggestion import suggestion
from ...models.transformer import Layer, Transformer
from ..calibration import Calibration
from ..material import Material, Workshop
from ..stage import Fit, Stage
from ..strict import Strict
from ..walk import walk
from .choose import choose_neurons, choose_neurons_uniform
from .compensate import compensation_bias
from .methods import METHODS, LayerNeurons
from .scores import standardise
from .statistics import NeuronStatistics

_LEAST_KEPT = 8  # a layer keeps at least a part of 1 / 8
_VARIANCES = Fit("means and variances of neurons", 1024, "a variance to sqrt(2 / 1024), 4 %")


class PruneSettings(Strict):
    """remove: the share of all FFN neurons that go, the same in each layer or by one ranking over all.

    method: of METHODS (methods.py): flap (variance times the output weights, An et al. 2024), or the controls magnitude
    and random. multiple: of what number each layer's width remains. compensate: a bias for the mean of what went.
    """

    method: str = "flap"
    what: Literal["ffn_neurons"] = "ffn_neurons"
    remove: float = Field(gt=0, lt=1)
    allocation: Literal["global", "uniform"] = "global"
    multiple: int = Field(default=1, ge=1)
    compensate: bool = True

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r}; {suggestion(method, list(METHODS))}")
        return method


@dataclass(frozen=True, slots=True)
class PruneStage(Stage):
    """Removes FFN neurons; layers may end up with unequal widths."""

    name = "prune"
    settings_type = PruneSettings
    changes_model = True

    settings: PruneSettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """A model with experts is refused: they would be left unequal."""
        if any(layer.ffn.experts.size for layer in spec.layers):
            raise RecipeError("prune: this model has experts already, which pruning would leave unequal; prune first")
        return self._spec(spec, [max(1, round(layer.ffn.width * (1 - self.settings.remove))) for layer in spec.layers])

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        needed = METHODS[self.settings.method].needs_text or self.settings.compensate
        return calibration.windows.numel() if needed else 0

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        return (_VARIANCES,) if METHODS[self.settings.method].needs_text or self.settings.compensate else ()

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        model = workshop.load(source)
        found = [NeuronStatistics.empty(layer.ffn.width, workshop.device) for layer in source.spec.layers]

        def watch(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
            for x in given:
                found[index].add(ffn.hidden(x).flatten(0, -2))

        if self.passes(source.spec, workshop.calibration):
            count = len(source.spec.layers)
            walk(
                model, workshop.calibration.windows, watch,
                progress=lambda n, _: workshop.progress("prune: watching neurons", n, count),
            )  # fmt: skip
        ffns = [layer.ffn for layer in model.layers if isinstance(layer, Layer)]
        kept = self._chosen(model, ffns, found, workshop.seed)
        changes = {i: self._layer(i, ffn, found[i], kept[i]) for i, ffn in enumerate(ffns)}
        widths = [len(each) for each in kept]
        notes = {"widths": widths, "removed": 1 - sum(widths) / sum(ffn.width for ffn in ffns)}
        return Material(
            self._spec(source.spec, widths), lambda: _pruned(read_tensors(source), kept, changes), notes=notes
        )

    def _chosen(
        self, model: Transformer, ffns: Sequence[FFN], found: Sequence[NeuronStatistics], seed: int
    ) -> list[Tensor]:
        """Per layer the neurons that stay."""
        scores = []
        for i, ffn in enumerate(ffns):
            with naming(model, f"layers.{i}.ffn"):
                neurons = LayerNeurons(ffn, found[i], folded(seed, i))
                scores.append(standardise(METHODS[self.settings.method].scores(neurons)).cpu())
        least = max(1, min(ffn.width for ffn in ffns) // _LEAST_KEPT)
        choose = choose_neurons if self.settings.allocation == "global" else choose_neurons_uniform
        return choose(scores, self.settings.remove, least, self.settings.multiple)

    def _layer(self, index: int, ffn: FFN, found: NeuronStatistics, kept: Tensor) -> Mapping[str, Tensor]:
        """The tensors of a layer that are made new."""
        if not self.settings.compensate:
            return {}
        bias = ffn.down.bias if isinstance(ffn.down.bias, Tensor) else None
        made = compensation_bias(dense_weight(ffn.down), found.mean, kept.to(found.mean.device), bias)
        return {f"layers.{index}.ffn.down.bias": made.cpu()}

    def _spec(self, spec: TransformerSpec, widths: Sequence[int]) -> TransformerSpec:
        compensated = self.settings.compensate
        layers = (
            replace(layer, ffn=replace(layer.ffn, width=width, output_bias=layer.ffn.output_bias or compensated))
            for layer, width in zip(spec.layers, widths, strict=True)
        )
        return replace(spec, layers=tuple(layers))


def select_neurons(name: str, tensor: Tensor, kept: Tensor) -> Tensor:
    """A tensor of an FFN, by its name within it (`up.weight`, `down.bias` ...), for these neurons in this order."""
    linear, _, leaf = name.partition(".")
    if linear == "down":
        return tensor[:, kept] if leaf == "weight" else tensor
    return tensor[kept]


def _pruned(
    tensors: Iterator[tuple[str, Tensor]], kept: Sequence[Tensor], changes: Mapping[int, Mapping[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    new = {name: tensor for each in changes.values() for name, tensor in each.items()}
    for name, tensor in tensors:
        part, _, leaf = name.partition(".ffn.")
        if leaf and name not in new:
            yield name, select_neurons(leaf, tensor, kept[int(part.removeprefix("layers."))])
        elif not leaf:
            yield name, tensor
    yield from new.items()
