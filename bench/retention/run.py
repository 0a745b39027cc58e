"""The curves of one model: every method at every share, kept as it is measured, so that a run that ends goes on."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ...compress.calibration import Calibration, CalibrationSettings
from ...compress.identity import code_sha256, content_sha256
from ...evaluate.provenance import provenance
from ...evaluate.texts import encode_documents, read_documents
from ...models.checkpoint import Checkpoint, open_checkpoint
from ...models.errors import RecipeError, TextError
from ...models.progress import Progress
from ...models.seeds import DRAWN_SEED
from ...models.spec import INT8_FORMATS
from ...models.threads import choose_threads, torch_threads
from ...models.tokenizer import Tokenizer
from .grid import default_method, methods_for, shares_for
from .lab import Lab, Point
from .method import Method, NotHere
from .store import PointStore

DENSE = "dense int8"  # its FFNs
N = TypeVar("N", bound="Named")
_SOURCES = ("bench/retention", "compress", "evaluate", "kernels", "models")


@dataclass(frozen=True, slots=True)
class CurvePlan:
    """text: files that nothing was chosen on, `windows` windows of `length` tokens of each; `calibration` windows.

    seeds: how often all is learned, each time from other calibration windows; the text that is scored stays.
    shares, only: some of the grid's shares and methods, by name; empty for all.
    """

    model: str
    out: Path
    text: tuple[str, ...]
    windows: int = 12
    length: int = 256
    calibration: int = 16
    seed: int = 0
    seeds: int = 1
    full: bool = False
    shares: tuple[float, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curves:
    """What was measured. dense is the int8 model; points without figures say why. defaults: by share, the method of a
    recipe that says nothing of it and has no lower tier.

    again: by method and share, what the other seeds gave.
    """

    plan: CurvePlan
    dense: Point
    points: list[Point]
    facts: dict[str, Any]
    defaults: Mapping[float, str]
    again: dict[tuple[str, float], list[Point]]


def draw_curves(plan: CurvePlan, progress: Progress) -> Curves:
    """Measures what is not in `out` yet.

    Raises RecipeError for a plan that makes no sense, TextError for text too short, CheckpointError for the model.
    """
    checkpoint = open_checkpoint(plan.model)
    check_plan(plan, checkpoint)
    evaluation, ffn = evaluation_windows(plan, checkpoint), checkpoint.spec.layers[0].ffn
    methods, shares = chosen(methods_for(checkpoint.spec, plan.full), plan.only), plan.shares or shares_for(ffn)
    defaults = {share: default_method(checkpoint.spec, share).name for share in shares}
    found = []
    with torch_threads(choose_threads(None, checkpoint.weight_bytes)):
        for seed in range(plan.seed, plan.seed + plan.seeds):
            settings = CalibrationSettings(sequences=plan.calibration, length=plan.length, seed=seed)
            calibration = Calibration(settings, checkpoint).windows
            store = PointStore(plan.out, key_of(checkpoint, seed, calibration, evaluation), Point)
            if store.missing([(DENSE, 1.0), *((each.name, share) for each in methods for share in shares)]):
                lab = Lab(checkpoint, calibration, evaluation, seed, progress)
                _measure(lab, methods, shares, store, progress)
            found.append(store.points)
    wanted = [(method.name, share) for method in methods for share in shares if (method.name, share) in found[0]]
    facts = {
        "model": Path(plan.model).name, "gated": ffn.gated, "seed": plan.seed, "seeds": plan.seeds,
        "text": [Path(file).name for file in plan.text], "windows": len(evaluation),
        "tokens": evaluation.numel() - len(evaluation), "length": plan.length,
        "calibration_tokens": calibration.numel(), "provenance": provenance(),
    }  # fmt: skip
    again = {each: [points[each] for points in found[1:]] for each in wanted}
    return Curves(plan, found[0][DENSE, 1.0], [found[0][each] for each in wanted], facts, defaults, again)


def check_plan(plan: CurvePlan, checkpoint: Checkpoint) -> None:
    least = {"windows": (plan.windows, 1), "length": (plan.length, 2), "calibration": (plan.calibration, 1)}
    least |= {"seeds": (plan.seeds, 1)}
    DRAWN_SEED.check("seed", plan.seed)
    DRAWN_SEED.check("the last of seeds", plan.seed + max(plan.seeds, 1) - 1)
    for name, (value, limit) in least.items():
        if value < limit:
            raise RecipeError(f"{name} is {value}, it must be at least {limit}")
    if plan.windows * len(plan.text) == 1:
        raise RecipeError("windows is 1, and there is one text; intervals need 2 windows at least, so raise windows")
    if plan.length > checkpoint.spec.max_context:
        raise RecipeError(f"length is {plan.length}, this model's context is {checkpoint.spec.max_context}; lower it")
    for share in plan.shares:
        if not 0 < share <= 1:  # a NaN too
            raise RecipeError(f"share is {share}; a share of the FFN's bytes lies above 0 and goes up to 1")
    if checkpoint.spec.is_mixture:
        raise RecipeError(f"{checkpoint.path.name} has mixtures of experts; the curves are of models with dense FFNs")
    ffns = [layer.ffn for layer in checkpoint.spec.layers]
    if not {each for ffn in ffns for each in (ffn.up, ffn.gate, ffn.down)}.isdisjoint(INT8_FORMATS):
        raise RecipeError(
            f"{checkpoint.path.name} has int8 weights, the curves start from floating point; "
            "name the model before it was quantized"
        )


def _measure(
    lab: Lab, methods: Sequence[Method], shares: Sequence[float], store: PointStore[Point], progress: Progress
) -> None:
    if (DENSE, 1.0) not in store.points:
        store.add(lab.dense())
    for method in map(copy.deepcopy, methods):  # of which one is kept at a time: it holds the model's FFNs once more
        missing = [share for share in shares if (method.name, share) not in store.points]
        try:
            if missing:
                method.learn(lab.material, progress)
        except NotHere as error:
            for share in missing:
                store.add(_without(method, share, str(error)))
            continue
        for share in missing:
            try:
                store.add(lab.point(method, share))
            except NotHere as error:
                store.add(_without(method, share, str(error)))


def _without(method: Method, share: float, reason: str) -> Point:
    return Point(method.name, method.group, share, 0.0, 0.0, [], [], [], reason)


class Named(Protocol):
    name: str


def chosen(methods: Sequence[N], only: Sequence[str]) -> list[N]:
    """The methods whose name holds one of these parts; a part that is a whole name means that method alone."""
    names = {method.name for method in methods}
    found = [
        method
        for method in methods
        if not only or any(part == method.name or (part not in names and part in method.name) for part in only)
    ]
    if not found:
        raise RecipeError(
            f"only: no method's name holds {' or '.join(map(repr, only))}; the first is {methods[0].name!r}"
        )
    return found


def evaluation_windows(plan: CurvePlan, checkpoint: Checkpoint) -> Tensor:
    """[windows, length] of each file, drawn by the seed. Raises TextError for text too short."""
    tokenizer, parts = Tokenizer.open(checkpoint.path), []
    for file in plan.text:
        encoded = encode_documents(read_documents([file]), tokenizer, None, checkpoint.spec.vocab_size)
        whole = [
            ids[begin : begin + plan.length]
            for ids in encoded
            for begin in range(0, len(ids) - plan.length + 1, plan.length)
        ]
        if len(whole) < plan.windows:
            raise TextError(
                f"{Path(file).name} holds {len(whole)} windows of {plan.length} tokens, {plan.windows} are wanted; "
                "lower windows or length, or give longer text"
            )
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(plan.seed))[: plan.windows]
        parts.append(torch.tensor(whole)[order])
    if not parts:
        raise TextError("no text to draw the curves on; name files that nothing was chosen on")
    return torch.cat(parts)


def key_of(checkpoint: Checkpoint, seed: int, *windows: Tensor) -> str:
    """Equal for equal weights, windows, seed and code."""
    parts = [content_sha256(checkpoint), seed, code_sha256(*_SOURCES)]
    parts += [hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in windows]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
