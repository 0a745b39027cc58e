"""The curves of one model over all of its linears: measured what is missing, kept as it is measured."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ....compress.calibration import Calibration, CalibrationSettings
from ....evaluate.provenance import provenance
from ....models.checkpoint import Checkpoint, open_checkpoint
from ....models.errors import RecipeError
from ....models.progress import Progress
from ....models.threads import choose_threads, torch_threads
from ..method import NotHere
from ..run import DENSE, CurvePlan, check_plan, chosen, evaluation_windows, key_of
from ..store import PointStore
from .grid import SHARES, methods_for
from .lab import Lab, Method, Point
from .matrices import AXES
from .off_grid import RECORD


@dataclass(frozen=True, slots=True)
class LinearCurves:
    """What was measured. dense is the int8 model; points without figures say why."""

    plan: CurvePlan
    dense: Point
    points: list[Point]
    facts: dict[str, Any]


def draw_linear_curves(plan: CurvePlan, axis: str, progress: Progress) -> LinearCurves:
    """Measures what is not in `out` yet. axis: whose bytes the shares are of, one of AXES.

    Raises RecipeError for a plan that makes no sense, TextError for text too short, CheckpointError for the model.
    """
    if axis not in AXES:
        raise RecipeError(f"bytes of {axis!r} are not counted; choose from {', '.join(AXES)}")
    checkpoint = open_checkpoint(plan.model)
    check_plan(plan, checkpoint)
    evaluation = evaluation_windows(plan, checkpoint)
    with torch_threads(choose_threads(None, checkpoint.weight_bytes)):
        settings = CalibrationSettings(sequences=plan.calibration, length=plan.length, seed=plan.seed)
        calibration = Calibration(settings, checkpoint).windows
        methods = chosen(methods_for(axis, checkpoint, calibration, plan.seed), plan.only)
        shares = plan.shares or SHARES[axis]
        store = PointStore(plan.out, key_of(checkpoint, plan.seed, calibration, evaluation), Point)
        wanted = [(method.name, share) for method in methods for share in shares]
        if store.missing([(DENSE, 1.0), *wanted]):
            lab = Lab(checkpoint, calibration, evaluation, plan.seed, progress)
            _measure(lab, methods, axis, shares, store, progress)
    facts = _facts(plan, axis, checkpoint, calibration, evaluation)
    return LinearCurves(plan, store.points[DENSE, 1.0], [store.points[each] for each in wanted], facts)


def _measure(
    lab: Lab,
    methods: Sequence[Method],
    axis: str,
    shares: Sequence[float],
    store: PointStore[Point],
    progress: Progress,
) -> None:
    dense = lab.dense()  # always: the others' distance from it needs its states
    if (DENSE, 1.0) not in store.points:
        store.add(dense)
    for method in map(copy.copy, methods):
        missing = [share for share in shares if (method.name, share) not in store.points]
        if missing:
            method.learn(lab.matrices, progress)
        for share in missing:
            try:
                store.add(lab.point(method, axis, share))
            except NotHere as error:
                store.add(Point(method.name, method.group, share, 0.0, 0.0, [], [], [], reason=str(error)))


def _facts(
    plan: CurvePlan, axis: str, checkpoint: Checkpoint, calibration: Tensor, evaluation: Tensor
) -> dict[str, Any]:
    return {
        "model": Path(plan.model).name, "axis": axis, "seed": plan.seed, "seeds": 1,
        "gated": checkpoint.spec.layers[0].ffn.gated, "off_grid": (checkpoint.path / RECORD).exists(),
        "text": [Path(file).name for file in plan.text], "windows": len(evaluation),
        "tokens": evaluation.numel() - len(evaluation), "length": plan.length,
        "calibration_tokens": calibration.numel(), "provenance": provenance(),
    }  # fmt: skip
