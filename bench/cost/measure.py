"""Unions of every candidate on one model and text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...compress.calibration import Calibration, CalibrationSettings
from ...models.checkpoint import Checkpoint, open_checkpoint
from ...models.errors import RecipeError
from ...models.progress import Progress
from ...models.threads import choose_threads, torch_threads
from ..retention.linears.lab import Lab, Method
from ..retention.linears.matrices import LINEARS_AXIS, Matrix
from ..retention.linears.neurons import FFNAlone
from .processor import GRADED, INPUTS, NEURONS
from .unions import MOST_TOKENS, ROWS, Tally, Union, WatchedInputs, WatchedPlanes, document_windows

ASKED = ((GRADED, 0.62), (GRADED, 0.55), (GRADED, 0.50), (INPUTS, 0.55), (NEURONS, 0.68))
_ROUTING_BITS = 4


@dataclass(frozen=True)
class UnionPlan:
    """windows: of `length` tokens, each of another document, which `text` holds; calibration windows as a recipe's."""

    model: str
    text: tuple[str, ...]
    windows: int = 32
    length: int = 128
    calibration: int = 32
    seed: int = 0
    threads: int | None = None

    def check(self) -> None:
        """Raises RecipeError where rows cannot be grouped."""
        if self.windows < MOST_TOKENS or self.windows % MOST_TOKENS:
            raise RecipeError(
                f"windows is {self.windows}, it must be a multiple of {MOST_TOKENS}, the most rows together"
            )


@dataclass(frozen=True)
class Measured:
    """A candidate at a share that was asked for: what a lone token read, of the linears' bytes, and the unions."""

    candidate: str
    asked: float
    bytes: float
    unions: list[Union]


def measure_unions(plan: UnionPlan, progress: Progress) -> Iterator[Measured]:
    """Scores the text once for each of ASKED. Raises RecipeError, TextError and CheckpointError."""
    plan.check()
    checkpoint = open_checkpoint(plan.model)
    evaluation = document_windows(checkpoint, plan.text, plan.windows, plan.length)
    settings = CalibrationSettings(sequences=plan.calibration, length=plan.length, seed=plan.seed)
    with torch_threads(choose_threads(plan.threads, checkpoint.weight_bytes)):
        calibration = Calibration(settings, checkpoint).windows
        lab = Lab(checkpoint, calibration, evaluation, plan.seed, progress)
        lab.dense()
        for candidate, asked in ASKED:
            method, union = watched(candidate, Tally(plan.length), checkpoint, calibration)
            method.learn(lab.matrices, progress)
            point = lab.point(method, LINEARS_AXIS, asked)
            yield Measured(candidate, asked, point.bytes_share, [union(rows, lab.matrices) for rows in ROWS])


def watched(
    candidate: str, tally: Tally, checkpoint: Checkpoint, calibration: Tensor
) -> tuple[Method, Callable[[int, Sequence[Matrix]], Union]]:
    """A candidate that tells the tally what it reads, and what rows together read of it then.

    Inputs that are read whole or not are TEAL's, as in bench/retention/linears/rivals.py.
    """
    if candidate == NEURONS:
        planes = WatchedPlanes(_ROUTING_BITS, tally=tally)
        return FFNAlone(planes, checkpoint, calibration, seed=0), planes.union
    graded = WatchedInputs(tally=tally)
    if candidate == INPUTS:
        graded = WatchedInputs((0, 8), "none", column=False, one_price=False, name="TEAL", tally=tally)
    return graded, graded.union
