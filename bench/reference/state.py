"""Where a run is: weights, AdamW's moments, step, plan and curve, saved whole or not at all.

OUT/state-00001200 is the last one; an older one goes only when a newer one is complete, so that a run killed at
any moment finds one. Tensors are safetensors, the rest is JSON.
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...compress.schedule import Plan
from ...models.errors import CheckpointError, OutputError
from ...models.files import new_directory
from .learner import Learner

_PATTERN = re.compile(r"state-(\d{8,})")


@dataclass(slots=True)
class RunState:
    """How far a run is. `losses` has one mean loss a step, `valid` [step, loss] pairs, `seconds` those per device."""

    plan: Plan
    step: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    valid: list[list[float]] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def save_state(out: Path, learner: Learner, progress: RunState) -> None:
    """Writes the state of this step and removes older ones. A full disk is an OutputError, and loses nothing."""
    folder = out / f"state-{progress.step:08d}"
    if folder.exists():
        return
    weights = dict(learner.model.state_dict())
    try:
        with new_directory(folder, 3 * sum(value.nbytes for value in weights.values())) as partial:
            save_file(weights, partial / "weights.safetensors")
            save_file(learner.moments(), partial / "moments.safetensors")
            (partial / "state.json").write_text(json.dumps(asdict(progress)))
    except OutputError as error:
        raise OutputError(
            f"step {progress.step:,} cannot be saved: {error}; what was saved before is whole, "
            "run the same command again to go on from it"
        ) from None
    for step, older in _states(out):
        if step < progress.step:
            shutil.rmtree(older, ignore_errors=True)


def last_state(out: Path) -> Path | None:
    """The newest saved state, if there is one."""
    states = sorted(_states(out))
    return states[-1][1] if states else None


def read_progress(state: Path) -> RunState:
    """The JSON of a state. Raises CheckpointError where it is damaged."""
    try:
        values: dict[str, Any] = json.loads((state / "state.json").read_bytes())
        return RunState(**{**values, "plan": Plan(**values["plan"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{state} is damaged ({error}); remove it to train from the start") from None


def load_state(state: Path, learner: Learner) -> RunState:
    """Puts the learner back to where it was saved."""
    progress = read_progress(state)
    try:
        weights, moments = load_file(state / "weights.safetensors"), load_file(state / "moments.safetensors")
        learner.restore(weights, moments, progress.step)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{state} is damaged ({error}); remove it to train from the start") from None
    return progress


def _states(out: Path) -> list[tuple[int, Path]]:
    found = [(_PATTERN.fullmatch(folder.name), folder) for folder in out.iterdir()]
    return [(int(match[1]), folder) for match, folder in found if match]
