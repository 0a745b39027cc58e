"""What a stage is given and what it makes. Between stages a model is a checkpoint on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..models.checkpoint import Checkpoint
from ..models.progress import Progress
from ..models.record import TierRecord
from ..models.spec import TransformerSpec
from .calibration import Calibration


@dataclass(frozen=True, slots=True)
class Material:
    """A model that a stage made. `tensors` starts a fresh pass over (our name, tensor), one at a time.

    notes: what the stage found out, for the record: plain values.
    """

    spec: TransformerSpec
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    tiers: tuple[TierRecord, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What stages share. `scratch` is a folder of this stage alone that outlives a kill: what lies there is resumed.

    wide: a later stage rounds the weights, so that until then they are kept as exactly as they were learned.
    """

    original: Checkpoint
    calibration: Calibration
    seed: int
    scratch: Path
    progress: Progress
    wide: bool = False
