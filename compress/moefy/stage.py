"""The stage `moefy`: neurons are put in expert order. That changes no function; `calibrate` says who is skipped.

Of a model with an encoder and a decoder, the decoder's FFNs become experts: a source is read in full, as prompts are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import CheckpointError, RecipeError
from ...models.ffn.dense import FFN
from ...models.finite import NotFinite
from ...models.spec import FFNSpec, TransformerSpec
from ..calibration import Calibration
from ..material import Material, Workshop
from ..prune.stage import select_neurons
from ..stage import Fit, Stage
from ..walk import BATCH_TOKENS, walk
from .calibrate import FP32_BYTES, LOADED_BYTES, MODEL_PART, CalibrateStage
from .cluster import Split, balanced_kmeans
from .coactivation import CoActivation, coactivation_split, marked
from .mixture_tiers import mixture_spec
from .patterns import pattern_split
from .settings import MoefySettings

_WHAT = "moefy: grouping neurons"
Splitter = Callable[[Tensor, int, int], Split]  # of vectors [neurons, inputs], experts of a size, by a seed


@dataclass(frozen=True, slots=True)
class MoefyStage(Stage):
    """Splits every FFN into experts (Zhang et al. 2022, MoEfication, section 3.2)."""

    name = "moefy"
    settings_type = MoefySettings
    takes_mixtures = True

    settings: MoefySettings

    def plan(self, spec: TransformerSpec) -> TransformerSpec:
        """A model that moefy made experts of is refused. Grading inputs, and tiers over the experts that a model was
        trained with, change nothing yet: `calibrate` does it.
        """
        if spec.is_mixture:
            mixture_spec(spec, self.settings)
            return spec
        if any(layer.ffn.experts.size for layer in spec.layers):
            raise RecipeError("moefy: this model has experts already; start from the model before it was MoEfied")
        if self.settings.grain_of(spec) == "inputs":
            return spec
        widest = max(layer.ffn.width for layer in spec.layers)
        if self.settings.size > widest:
            raise RecipeError(
                f"moefy: expert_size is {self.settings.size}, the widest FFN has {widest} neurons; lower it"
            )
        layers = (
            replace(layer, ffn=replace(layer.ffn, experts=self.settings.experts(layer.ffn, spec.hidden_size)))
            for layer in spec.layers
        )
        return replace(spec, layers=tuple(layers))

    def check_end(self, own: TransformerSpec, end: TransformerSpec) -> None:
        ours, theirs = self.settings.grain_of(own), self.settings.grain_of(end)
        if ours != theirs:
            raise RecipeError(
                f"moefy: its tiers are of {ours} where it stands and of {theirs} at the end, since the activation "
                f"changes in between; put relufy before moefy, or say grain: {ours}"
            )

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return calibration.windows.numel() if self.settings.split_needs_text else 0

    def fits(self, spec: TransformerSpec) -> tuple[Fit, ...]:
        """Of a neuron that is marked on one token in n, in the mean, 16 n tokens."""
        if not self.settings.split_needs_text:
            return ()
        width = max(layer.ffn.width for layer in spec.layers)
        tokens = 16 * -(-width // marked(width, self.settings.marks))
        return (Fit("which neurons fire together", tokens, "a neuron fires 16 times"),)

    def run(self, source: Checkpoint, workshop: Workshop) -> Material:
        spec, size = self.plan(source.spec), self.settings.size
        if size == 1 or spec.is_mixture:
            counts = {"experts": _counts(spec)} if any(_counts(spec)) else {}
            return Material(spec, lambda: read_tensors(source), notes=counts)
        splits = list(self.splits(source, workshop))
        orders = [split.order for split in splits]
        short = [layer.ffn.width % size for layer in spec.layers]
        what = "cut" if self.settings.grouping == "coactivation" else "inertia"
        notes = {"experts": _counts(spec), what: [split.inertia for split in splits], "in_last_expert": short}
        return Material(spec, lambda: _reordered(read_tensors(source), orders), notes=notes)

    def memory(self, original: int, planned: int, spec: TransformerSpec, calibration: Calibration) -> int:
        """What grouping neurons by text takes: 1.3 times the model, and a buffer.

        The buffer holds the states of all tokens and what an FFN is given, values and marks of a batch, and four times
        the counts of one layer, width^2 of them, which are cut in two again and again.
        """
        if not self.settings.split_needs_text:
            return 0
        tokens, hidden = calibration.windows.numel(), spec.hidden_size
        width = max(layer.ffn.width for layer in spec.layers)
        batch = 2 * BATCH_TOKENS * (8 * width + 4 * hidden)
        buffer = FP32_BYTES * (2 * tokens * hidden + batch + 4 * width * width)
        return int(MODEL_PART * original) + buffer + LOADED_BYTES

    def follow_up(self) -> Stage:
        """Routers, fits and thresholds, on the weights as they will be served."""
        return CalibrateStage(self.settings)

    def splits(self, source: Checkpoint, workshop: Workshop) -> Iterator[Split]:
        """The split of each layer."""
        if self.settings.split_needs_text:
            return iter(self._by_text(source, workshop))
        return self.by_weights(source, workshop, balanced_kmeans)

    def by_weights(self, source: Checkpoint, workshop: Workshop, split: Splitter) -> Iterator[Split]:
        """The rows of the gate carry the sparsity where there is one (D2DMoE, section 3.1)."""
        ffns = [layer.ffn for layer in source.spec.layers]
        names = [f"layers.{i}.ffn.{'gate' if ffn.gated else 'up'}.weight" for i, ffn in enumerate(ffns)]
        rows = _rows(source, names)
        for i, name in enumerate(names):
            try:
                yield split(rows[name], self.settings.size, workshop.seed)
            except NotFinite as error:
                raise CheckpointError(f"layer {i}: {source.family.their_name(name)}: {error}; make it again") from None
            workshop.progress(_WHAT, i + 1, len(names))

    def _by_text(self, source: Checkpoint, workshop: Workshop) -> list[Split]:
        """What the dense model's neurons do on the calibration text; one layer's counts are held at a time."""
        splits: list[Split] = []

        def group(index: int, ffn: FFN, given: Sequence[Tensor]) -> None:
            found = CoActivation.empty(ffn.width, self.settings.marks, workshop.device)
            for x in given:
                found.add(ffn.hidden(x).flatten(0, -2))
            splits.append(self._grouped(found.on_host(), self.settings.grouping, workshop.seed))

        model = workshop.load(source)
        walk(model, workshop.windows, group, progress=lambda n, of: workshop.progress(_WHAT, n, of))
        return splits

    def _grouped(self, found: CoActivation, split: str, seed: int) -> Split:
        if split == "patterns":
            return pattern_split(found, self.settings.size).split
        return coactivation_split(found, self.settings.size, seed)


def _rows(source: Checkpoint, names: Sequence[str]) -> Mapping[str, Tensor]:
    """int8 rows as they are: normalising takes their scale away."""
    wanted = set(names)
    return {name: tensor for name, tensor in read_tensors(source) if name in wanted}


def _reordered(tensors: Iterator[tuple[str, Tensor]], orders: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        part, _, leaf = name.partition(".ffn.")
        ours = leaf and part.startswith("layers.")
        yield name, select_neurons(leaf, tensor, orders[int(part.removeprefix("layers."))]) if ours else tensor


def _counts(spec: TransformerSpec) -> list[int]:
    """Experts of each layer."""

    def count(ffn: FFNSpec) -> int:
        return ffn.experts.count(ffn.width)

    return [count(layer.ffn) for layer in spec.layers]
