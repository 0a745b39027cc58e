"""The company that a recipe's tiers are judged in: made by the same stages, scored by the same judge on the same text.

What a tier keeps says little by itself. The same bytes may buy as much with fewer neurons for all tokens (static
pruning), with one method of the recipe alone, with other experts, or with no more than luck (random experts and random
routers); a perfect router says what is left to gain.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ...compress.calibration import Calibration
from ...compress.identity import code_sha256, content_sha256
from ...compress.judge import Judge
from ...compress.recipe import Recipe
from ...compress.run import Announce, Run
from ...compress.sizes import weight_bytes
from ...evaluate.score import Score
from ...models.checkpoint import Checkpoint, load_transformer
from ...models.cost import governed_bytes
from ...models.errors import RecipeError, SetupError
from ...models.families.registry import is_sparse_tensor
from ...models.progress import Progress
from ...models.record import TierRecord
from ...models.spec import FULL, TransformerSpec
from ...models.transformer import Transformer
from .derive import (
    ALONE,
    EXPERTS_OF_64,
    FLAP,
    METHODS,
    RANDOM_EXPERTS,
    ROUTERS,
    STATIC,
    STATIC_DISTILLED,
    Variant,
    each_alone,
    experts_of_64,
    groups_for,
    moefy_settings,
    static_pruning,
)
from .stand_ins import STAND_INS, StandIn, layer_shares, with_stand_ins_

_FFN, _FLOAT_BYTES = ".ffn.", 2
_SOURCES = ("bench/controls", "bench/retention/masks.py", "compress")


@dataclass(frozen=True, slots=True)
class Control:
    """What a tier is held against (tier "": no one tier), with its score, or with the reason why there is none.

    tier_bytes: of what tiers govern, read by a lone token; neurons: that it computes, in all layers. recipe: None
    for a selection on the finished model.
    """

    group: str
    name: str
    tier: str = ""
    recipe: Recipe | None = None
    reason: str = ""
    score: Score | None = None
    tier_bytes: float = 0.0
    neurons: float = 0.0


def tier_bytes(checkpoint: Checkpoint) -> int:
    """Bytes on disk of the weights that tiers govern: of all FFNs, routers not included, or of graded linears."""
    if checkpoint.spec.is_graded:
        return governed_bytes(checkpoint.spec, _FLOAT_BYTES)
    return sum(entry.num_bytes for name, entry in checkpoint.entries.items() if is_ffn_weight(name))


def is_ffn_weight(name: str) -> bool:
    """Whether a tensor belongs to an FFN, and not to a router."""
    return _FFN in name and not is_sparse_tensor(name)


def ffn_neurons(spec: TransformerSpec) -> int:
    """The neurons of all layers together."""
    return sum(layer.ffn.width for layer in spec.layers)


def original_tier_bytes(source: Checkpoint, recipe: Recipe, judge: Judge) -> int:
    """Bytes of the original in the format in which the recipe leaves it, of what tiers govern: what shares are of."""
    final = Run(source, recipe, _silent, judge=judge).planned[-1]
    if final.is_graded:
        return governed_bytes(_with_widths(final, source.spec), _FLOAT_BYTES)
    return weight_bytes(_with_widths(final, source.spec), source, _FFN)


class Controls:
    """Controls of one finished compression. scores: those of its tiers, by name."""

    def __init__(
        self,
        source: Checkpoint,
        recipe: Recipe,
        finished: Checkpoint,
        scores: Mapping[str, Score],
        judge: Judge,
        progress: Progress,
        announce: Announce | None = None,
    ) -> None:
        self._source, self._recipe, self._finished, self._scores = source, recipe, finished, scores
        self._judge, self._progress, self._announce = judge, progress, announce
        self._calibration = Calibration(recipe.calibration, source)

    def run(self, groups: Sequence[str]) -> Iterator[Control]:
        """Runs each control of these groups, in the order of GROUPS. Raises RecipeError as `groups_for` does."""
        makers: Mapping[str, Callable[[], Iterator[Control]]] = {
            ALONE: self._alone,
            STATIC: partial(self._static, METHODS, False),
            STATIC_DISTILLED: partial(self._static, [FLAP], True),
            EXPERTS_OF_64: partial(self._experts, EXPERTS_OF_64),
            RANDOM_EXPERTS: partial(self._experts, RANDOM_EXPERTS),
            ROUTERS: self._routers,
        }
        for group in groups_for(self._recipe, groups):
            yield from makers[group]()

    @property
    def _tiers(self) -> tuple[TierRecord, ...]:
        return self._finished.record.tiers

    def _alone(self) -> Iterator[Control]:
        for variant in each_alone(self._recipe):
            yield from self._tried(variant)

    def _static(self, methods: Sequence[str], distilled: bool) -> Iterator[Control]:
        """Prunes for each tier to the neurons that take, for all tokens, the bytes that it reads for each of them.

        A result without tiers is pruned to its own bytes.
        """
        for tier in [each.name for each in self._tiers] or [FULL]:
            wanted = self._scores[tier].shares[0] * tier_bytes(self._finished)
            for method in methods:
                template = static_pruning(self._recipe, 0.5, method, distilled)
                try:
                    remove = self._removal(template, wanted)
                except SetupError as error:
                    yield _failed(template, tier, error)
                    continue
                yield from self._tried(static_pruning(self._recipe, remove, method, distilled), tier)

    def _removal(self, template: Variant, wanted: float) -> float:
        """The share of all neurons that must go for FFNs of about so many bytes."""
        spec = self._planned(template.recipe)
        one, two = (weight_bytes(_with_width(spec, width), self._source, _FFN) for width in (1, 2))
        each = (two - one) / len(spec.layers)
        total = ffn_neurons(self._source.spec)
        kept = round((wanted - one) / each) + len(spec.layers)
        if kept >= total:
            raise RecipeError(
                f"{wanted:,.0f} bytes of the FFNs are read, and all neurons together take no more, "
                "so there is nothing to remove"
            )
        if kept < 1:
            raise RecipeError(f"the {wanted:,.0f} bytes that are read hold no neuron")
        return (total - kept) / total

    def _experts(self, group: str) -> Iterator[Control]:
        """Makes the tiers that such a router leaves room for, together; says of the others why not."""
        found: dict[str, Control] = {}
        for tier in self._tiers:
            variant = experts_of_64(self._recipe, [tier.name], group)
            try:
                self._planned(variant.recipe)
            except SetupError as error:
                found[tier.name] = _failed(variant, tier.name, error)
        possible = [tier.name for tier in self._tiers if tier.name not in found]
        if possible:
            found |= {each.tier: each for each in self._tried(experts_of_64(self._recipe, possible, group))}
        yield from (found[tier.name] for tier in self._tiers)

    def _tried(self, variant: Variant, beside: str = "") -> Iterator[Control]:
        """The scores of a derived recipe: of its tiers, or as a whole, held against the tier `beside`."""
        tiers = variant.tiers or (FULL,)
        if variant.recipe.sha256() == self._recipe.sha256():
            yield Control(variant.group, variant.name, beside, variant.recipe, "this is the recipe itself")
            return
        try:
            run = Run(self._source, variant.recipe, self._progress, self._announce, self._judge, self._calibration)
            checkpoint = run.checkpoint()
            scores = self._judge.scores(variant.name, checkpoint, tiers)
        except SetupError as error:
            for tier in variant.tiers or (beside,):
                yield _failed(variant, tier, error)
            return
        for tier, score in scores.items():
            named = Control(variant.group, variant.name, beside if tier == FULL else tier, variant.recipe)
            yield _scored(named, score, checkpoint)

    def _planned(self, recipe: Recipe) -> TransformerSpec:
        run = Run(self._source, recipe, self._progress, judge=self._judge, calibration=self._calibration)
        return run.planned[-1]

    def _routers(self) -> Iterator[Control]:
        """Tries other selections at each tier's own share of neurons."""
        for kind in STAND_INS:
            for tier in self._tiers:
                score = self._selected(kind, tier)
                yield _scored(Control(ROUTERS, kind, tier.name), score, self._finished)

    def _selected(self, kind: str, tier: TierRecord) -> Score:
        settings = moefy_settings(self._recipe)
        calibration = self._calibration
        shares = layer_shares(tier, self._scores[tier.name].shares[1])
        compensate = settings is not None and settings.compensates(self._finished.spec.layers[0].ffn.gated)
        wanted = StandIn(kind, shares, calibration.windows, compensate, self._recipe.seed)
        identity: list[Any] = [
            kind, tier.name, shares, compensate, self._recipe.seed, calibration.sha256, code_sha256(*_SOURCES),
            len(calibration.windows), content_sha256(self._finished), content_sha256(self._source),
        ]  # fmt: skip
        return self._judge.score(f"{kind}, {tier.name}", identity, partial(self._model_with, wanted, tier))

    def _model_with(self, wanted: StandIn, tier: TierRecord) -> Transformer:
        model = load_transformer(self._finished, torch.device("cpu"))
        what = f"{wanted.kind}, {tier.name}"
        operating_point = self._finished.operating_point(tier.name)
        with_stand_ins_(model, operating_point, wanted, lambda n, of: self._progress(what, n, of))
        return model


def _scored(control: Control, score: Score, checkpoint: Checkpoint) -> Control:
    read, computed = score.shares
    read, computed = read * tier_bytes(checkpoint), computed * ffn_neurons(checkpoint.spec)
    return replace(control, score=score, tier_bytes=read, neurons=computed)


def _failed(variant: Variant, tier: str, error: SetupError) -> Control:
    return Control(variant.group, variant.name, tier, variant.recipe, str(error))


def _with_width(spec: TransformerSpec, width: int) -> TransformerSpec:
    layers = (replace(layer, ffn=replace(layer.ffn, width=width)) for layer in spec.layers)
    return replace(spec, layers=tuple(layers), num_tiers=1)


def _with_widths(spec: TransformerSpec, original: TransformerSpec) -> TransformerSpec:
    """The FFNs as wide as the original's, with no more biases than it has, and without routers."""
    pairs = zip(spec.layers, original.layers, strict=True)
    layers = (
        replace(mine, ffn=replace(mine.ffn, width=its.ffn.width, output_bias=its.ffn.output_bias))
        for mine, its in pairs
    )
    return replace(spec, layers=tuple(layers), num_tiers=1)


def _silent(what: str, done: int, total: int) -> None:
    pass
