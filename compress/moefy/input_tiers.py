"""Tiers of graded inputs: what each input's bits are worth by the weights and the model's own sensitivity, and one
threshold a tier for the whole model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ...kernels.graded.bytes import PLANES
from ...kernels.graded.worth import worth_of
from ...models.checkpoint import Checkpoint, read_tensors
from ...models.errors import RecipeError
from ...models.families.registry import is_sparse_tensor
from ...models.host_memory import give_back_freed_memory
from ...models.linear import LINEARS as BY_FORMAT
from ...models.linear import Graded, GradedEmbedding, GradedLinear, Int8Embedding, Int8Linear, replace_tensor
from ...models.packing import pack_
from ...models.record import TierRecord
from ...models.spec import CENTRED, GRADED, GRADED_FORMATS, INT8, LayerSpec, TransformerSpec, with_overrides
from ...models.transformer import Layer, Transformer
from ..calibration import Calibration
from ..material import Material, Workshop
from ..windows import Windows, first_of, num_tokens
from .centres import TOKENS as CENTRE_TOKENS
from .centres import centred_paths, centres, leans
from .grading import GradedScores, Walk, threshold_for
from .importance import HEAD_ROWS, HEAD_TOKENS, TOKENS
from .sensitivity import GROUPS, HEADS, LINEARS, PASS_TOKENS, sensitivities
from .settings import MoefySettings

FULL_WINDOWS, TIER_WINDOWS = 16, 16  # of the calibration text: a share is a mean over all inputs of all linears
_PARTS = tuple(i / 8 for i in range(8))  # of the way from the tier before
_MODEL_PART, _FP32_BYTES, _LOADED_BYTES = 1.3, 4, 96 << 20


def linear_formats(spec: TransformerSpec) -> dict[str, str]:
    """The format of every linear, the head too where there is one, by path."""
    every = {f"layers.{i}.{name}": _format(layer, name) for i, layer in enumerate(spec.layers) for name in LINEARS}
    if spec.causal:
        every |= {"embedding": spec.embedding} if spec.tied_head else {"head": spec.head}
    return {path: kind for path, kind in every.items() if kind}


def graded_paths(spec: TransformerSpec, keep: Sequence[str], setting: str = "moefy: keep") -> list[str]:
    """The paths of the linears that are graded. Raises RecipeError for a name in `keep` that is nowhere, for linears
    that are not int8, and where nothing is left. setting: what a recipe calls `keep`.
    """
    there = linear_formats(spec)
    for pattern in keep:
        if not any(fnmatchcase(path, pattern) for path in there):
            raise RecipeError(f"{setting} names {pattern!r}, and no linear has such a path; one is {next(iter(there))}")
    left = [path for path in there if not any(fnmatchcase(path, pattern) for pattern in keep)]
    left = [path for path in left if "." in path or there[path] == INT8]  # the head may stay in floating point
    wrong = [path for path in left if there[path] != INT8]
    if wrong:
        raise RecipeError(
            f"moefy: {wrong[0]} is {there[wrong[0]]}, and bits are graded of int8 weights whose activations stay as "
            "they are; add `- quantize: {linears: int8}` to the stages, or keep it"
        )
    if not left:
        raise RecipeError(f"{setting} leaves no linear to grade; name fewer")
    return left


def graded_spec(spec: TransformerSpec, settings: MoefySettings) -> TransformerSpec:
    """The spec with its tiers. Raises RecipeError for shares that no level can meet."""
    paths = graded_paths(spec, settings.keep)
    least = least_share(spec, paths)
    for name, share in settings.tiers.items():
        if share <= least:
            raise RecipeError(
                f"moefy: tier {name!r} may read {share} of the linears' bytes, and what says which bits to read takes "
                f"{least:.3f} of them; raise the tier"
            )
    return replace(_graded(spec, paths), num_tiers=1 + len(settings.tiers))


def _graded(spec: TransformerSpec, paths: Sequence[str]) -> TransformerSpec:
    """Spec with these linears graded, about the centres of their inputs where these lean to one side of 0."""
    leaning = {f"layers.{i}.ffn.down" for i, layer in enumerate(spec.layers) if leans(layer.ffn)}
    return with_overrides(spec, {path: CENTRED if path in leaning else GRADED for path in paths})


def graded_passes(tiers: int, calibration: Calibration) -> float:
    """Gradients, a pass at full, and one at each tier, which computes every linear once a level."""
    return 4 * TOKENS + calibration.length * (FULL_WINDOWS + 2.5 * TIER_WINDOWS * tiers)


def graded_memory(original: int, planned: int, spec: TransformerSpec) -> int:
    """The model, planes beside the rows that they are made of, and what gradients take."""
    hidden, head = spec.hidden_size, 3 * HEAD_TOKENS * spec.vocab_size + HEAD_ROWS * spec.hidden_size
    gradients = len(spec.layers) * hidden * PASS_TOKENS + head
    seen = 3 * CENTRE_TOKENS * sum(layer.ffn.width for layer in spec.layers if leans(layer.ffn))
    return int(_MODEL_PART * max(original, planned)) + _FP32_BYTES * max(2 * gradients, seen) + _LOADED_BYTES


def graded_material(source: Checkpoint, spec: TransformerSpec, settings: MoefySettings, workshop: Workshop) -> Material:
    """The model with tiers: the source's tensors, and what inputs are worth, and thresholds."""
    model = workshop.load(source)
    tiers = calibrate_(model, spec, settings, workshop)
    own = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items() if is_sparse_tensor(name)}
    del model  # what is written next is read from the source
    give_back_freed_memory()
    return Material(spec, lambda: _with_grades(source, own), tiers)


def calibrate_(
    model: Transformer, spec: TransformerSpec, settings: MoefySettings, workshop: Workshop
) -> tuple[TierRecord, ...]:
    """Makes a loaded int8 model the graded one of this spec, and sets its tiers."""
    windows, tell = workshop.windows, workshop.progress
    felt = sensitivities(model, windows, workshop.seed, lambda n, of: tell("calibrate: sensitivity", n, of))
    middles = centres(model, centred_paths(spec), windows, lambda n, of: tell("calibrate: centres", n, of))
    grade_linears_(model, spec, felt, middles)
    give_back_freed_memory()
    setter = InputTiers(model, windows, workshop)
    wanted = [TierRecord(name, share) for name, share in settings.tiers.items()]
    return tuple(setter.set_tier(index, tier) for index, tier in enumerate(wanted, 1))


def grade_linears_(
    model: Transformer, spec: TransformerSpec, felt: Mapping[str, Tensor], middles: Mapping[str, Tensor]
) -> None:
    """Puts graded twins over the int8 linears that the spec grades, and makes the model of that spec.

    felt: sensitivities [outputs] by path; middles: `centres` of `centred_paths`. Linears that read the same input share
    what it is worth.
    """
    for i, (layer, wanted) in enumerate(zip(model.layers, spec.layers, strict=True)):
        if isinstance(layer, Layer):
            layer.attention.packed = layer.ffn.packed = None
            for names in GROUPS.values():
                graded = [name for name in names if _format(wanted, name) in GRADED_FORMATS]
                _grade_group(layer, wanted, graded, [felt[f"layers.{i}.{name}"] for name in graded])
    for path, centre in middles.items():
        replace_tensor(model.get_submodule(path), "centre", centre)
    if spec.causal and GRADED == (spec.embedding if spec.tied_head else spec.head):
        _grade_head(model, felt)
    model.spec = spec
    model.thresholds = torch.zeros(spec.num_tiers, device=model.device)
    pack_(model.requires_grad_(False).eval())


class InputTiers:
    """Sets the tiers of one loaded model."""

    def __init__(self, model: Transformer, windows: Windows, workshop: Workshop) -> None:
        self.model, self.windows, self.workshop = model, windows, workshop
        self.walk, self._length = Walk(model), workshop.calibration.length
        self._full = self._scores(FULL_WINDOWS, 0, "full")

    def set_tier(self, index: int, tier: TierRecord) -> TierRecord:
        """The threshold from what inputs are at full, then again from what they are at the tier itself."""
        if self.model.thresholds is None:
            raise TypeError("no linear of this model is graded")
        self.model.thresholds[index] = threshold_for(self._full, tier.share)
        seen = self._scores(TIER_WINDOWS, index, tier.name)
        threshold = threshold_for(seen, tier.share)
        self.model.thresholds[index] = threshold
        before = float(self.model.thresholds[index - 1])
        return replace(tier, calibrated=self._figures(seen, before, threshold))

    def _scores(self, windows: int, operating_point: int, what: str) -> list[GradedScores]:
        return self.walk.scores(
            first_of(self.windows, windows * self._length), operating_point,
            lambda n, of: self.workshop.progress(f"calibrate: {what}", n, of),
        )  # fmt: skip

    def _figures(self, seen: Sequence[GradedScores], before: float, threshold: float) -> dict[str, Any]:
        whole = self.model.whole.bytes
        read = {
            part: sum(each.bytes_at(before + (threshold - before) * part) for each in seen) / whole for part in _PARTS
        }
        down = {each.linear: each.shares_at(threshold)[0] for each in seen if each.linear.counts_neurons}
        active = [next((down[each] for each in layer if each in down), 1.0) for layer in self.walk.by_layer]
        looked_at = first_of(self.windows, TIER_WINDOWS * self._length)
        return {
            "bytes_share": sum(each.bytes_at(threshold) for each in seen) / whole,
            "neurons_share": sum(active) / len(active),
            "tokens": num_tokens(looked_at),
            "active_by_layer": active,
            "between": [[part, share] for part, share in read.items()],
        }


def _grade_group(layer: Layer, wanted: LayerSpec, names: Sequence[str], felt: Sequence[Tensor]) -> None:
    int8 = [each for each in map(layer.get_submodule, names) if isinstance(each, Int8Linear)]
    if not int8:
        return
    weight, scale = torch.cat([each.weight for each in int8]), torch.cat([each.weight_scale for each in int8])
    worth = worth_of(weight, scale, torch.cat(list(felt)), PLANES)
    for name, each in zip(names, int8, strict=True):
        owner, leaf = name.split(".")
        with torch.device("meta"):
            twin = BY_FORMAT[_format(wanted, name)](each.weight.shape[1], len(each.weight), each.bias is not None)
        if isinstance(twin, GradedLinear):
            twin.take(each, worth)
        setattr(layer.get_submodule(owner), leaf, twin)


def _grade_head(model: Transformer, felt: Mapping[str, Tensor]) -> None:
    head = model.embedding if model.untied_head is None else model.untied_head
    weight, scale = head.weight, getattr(head, "weight_scale", None)
    if not isinstance(weight, Tensor) or not isinstance(scale, Tensor):
        raise TypeError("a head is graded once it is int8")
    worth = worth_of(weight, scale, felt[HEADS[model.untied_head is not None]], PLANES)
    outputs, inputs = weight.shape
    with torch.device("meta"):
        linear, embedding = GradedLinear(inputs, outputs, False), GradedEmbedding(outputs, inputs)
    if model.untied_head is not None:
        model.untied_head = linear.take(head, worth)
    elif isinstance(model.embedding, Int8Embedding):
        embedding.dtype = model.embedding.dtype
        model.embedding = embedding.take(head, worth)


def _format(layer: Any, name: str) -> str:
    """The format of a linear of a layer's spec; "" where there is none."""
    part, leaf = name.split(".")
    spec = getattr(layer, part)
    return "" if leaf == "gate" and not spec.gated else str(getattr(spec, leaf))


def least_share(spec: TransformerSpec, paths: Sequence[str]) -> float:
    """What is read before any bit of a weight: scales, and what inputs are worth."""
    with torch.device("meta"):
        model = Transformer(_graded(spec, paths))
    graded = [module for module in model.modules() if isinstance(module, Graded)]
    return sum(each.prices.fixed for each in graded) / sum(each.whole_bytes for each in graded)


def _with_grades(source: Checkpoint, own: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The source's tensors as they are, then what graded linears add."""
    yield from read_tensors(source)
    yield from own.items()
