"""The stage `prune`: whole FFN neurons go, and a bias takes the place of what they gave on average.

A model with an encoder and a decoder loses neurons of both by one ranking.
"""

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
from ...models.spec import FFNSpec, TransformerSpec
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

_ENCODER = "encoder."
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
        if any(ffn.experts.size for ffn in ffns_of(spec).values()):
            raise RecipeError("prune: this model has experts already, which pruning would leave unequal; prune first")
        left = 1 - self.settings.remove
        return self._spec(spec, {path: max(1, round(ffn.width * left)) for path, ffn in ffns_of(spec).items()})

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        needed = METHODS[self.settings.method].needs_text or self.settings.compensate
        return calibration.windows.numel() if needed else 0

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        return (_VARIANCES,) if METHODS[self.settings.method].needs_text or self.settings.compensate else ()

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        model, found = workshop.load(source), dict[str, NeuronStatistics]()
        ffns = {
            f"{side}layers.{i}.ffn": layer.ffn
            for side, part in _sides(model)
            for i, layer in enumerate(part.layers)
            if isinstance(layer, Layer)
        }
        for path, ffn in ffns.items():
            found[path] = NeuronStatistics.empty(ffn.width, workshop.device)
        if self.passes(source.spec, workshop.calibration):
            self._watch(model, found, workshop)
        kept = self._chosen(model, ffns, found, workshop.seed)
        changes = [self._layer(path, ffn, found[path], kept[path]) for path, ffn in ffns.items()]
        widths = {path: len(each) for path, each in kept.items()}
        removed = 1 - sum(widths.values()) / sum(ffn.width for ffn in ffns.values())
        notes = {"widths": list(widths.values()), "removed": removed}
        return Material(
            self._spec(source.spec, widths), lambda: _pruned(read_tensors(source), kept, changes), notes=notes
        )

    def _watch(self, model: Transformer, found: Mapping[str, NeuronStatistics], workshop: Workshop) -> None:
        """What the neurons of each side do."""
        done = 0
        for side, part in _sides(model):
            windows = workshop.windows if part is model else workshop.calibration.windows

            def watch(index: int, ffn: FFN, given: Sequence[Tensor], side: str = side) -> None:
                for x in given:
                    found[f"{side}layers.{index}.ffn"].add(ffn.hidden(x).flatten(0, -2))

            def tell(n: int, of: int, before: int = done) -> None:
                workshop.progress("prune: watching neurons", before + n, len(found))

            walk(part, windows, watch, progress=tell)
            done += len(part.layers)

    def _chosen(
        self, model: Transformer, ffns: Mapping[str, FFN], found: Mapping[str, NeuronStatistics], seed: int
    ) -> dict[str, Tensor]:
        """By path of an FFN the neurons that stay."""
        scores = []
        for i, (path, ffn) in enumerate(ffns.items()):
            with naming(model, path):
                neurons = LayerNeurons(ffn, found[path], folded(seed, i))
                scores.append(standardise(METHODS[self.settings.method].scores(neurons)).cpu())
        least = max(1, min(ffn.width for ffn in ffns.values()) // _LEAST_KEPT)
        choose = choose_neurons if self.settings.allocation == "global" else choose_neurons_uniform
        return dict(zip(ffns, choose(scores, self.settings.remove, least, self.settings.multiple), strict=True))

    def _layer(self, path: str, ffn: FFN, found: NeuronStatistics, kept: Tensor) -> Mapping[str, Tensor]:
        """The tensors of an FFN that are made new."""
        if not self.settings.compensate:
            return {}
        bias = ffn.down.bias if isinstance(ffn.down.bias, Tensor) else None
        made = compensation_bias(dense_weight(ffn.down), found.mean, kept.to(found.mean.device), bias)
        return {f"{path}.down.bias": made.cpu()}

    def _spec(self, spec: TransformerSpec, widths: Mapping[str, int], side: str = "") -> TransformerSpec:
        """widths: by path of an FFN."""
        compensated = self.settings.compensate
        layers = tuple(
            replace(
                layer,
                ffn=replace(
                    layer.ffn, width=widths[f"{side}layers.{i}.ffn"],
                    output_bias=layer.ffn.output_bias or compensated,
                ),
            )
            for i, layer in enumerate(spec.layers)
        )  # fmt: skip
        encoder = spec.encoder and self._spec(spec.encoder, widths, _ENCODER)
        return replace(spec, layers=layers, encoder=encoder)


def ffns_of(spec: TransformerSpec) -> dict[str, FFNSpec]:
    """Every FFN by its path, those of an encoder in front of the decoder's first."""
    encoder = ffns_of(spec.encoder) if spec.encoder else {}
    found = {f"{_ENCODER}{path}": ffn for path, ffn in encoder.items()}
    return found | {f"layers.{i}.ffn": layer.ffn for i, layer in enumerate(spec.layers)}


def _sides(model: Transformer) -> Iterator[tuple[str, Transformer]]:
    """What stands before a side's paths, and the side."""
    if model.encoder is not None:
        yield _ENCODER, model.encoder
    yield "", model


def select_neurons(name: str, tensor: Tensor, kept: Tensor) -> Tensor:
    """A tensor of an FFN, by its name within it (`up.weight`, `down.bias` ...), for these neurons in this order."""
    linear, _, leaf = name.partition(".")
    if linear == "down":
        return tensor[:, kept] if leaf == "weight" else tensor
    return tensor[kept]


def _pruned(
    tensors: Iterator[tuple[str, Tensor]], kept: Mapping[str, Tensor], changes: Sequence[Mapping[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    new = {name: tensor for each in changes for name, tensor in each.items()}
    for name, tensor in tensors:
        part, _, leaf = name.partition(".ffn.")
        if leaf and name not in new:
            yield name, select_neurons(leaf, tensor, kept[f"{part}.ffn"])
        elif not leaf:
            yield name, tensor
    yield from new.items()
