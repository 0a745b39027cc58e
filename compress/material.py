"""What a stage is given and what it makes. Between stages a model is a checkpoint on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.checkpoint import Checkpoint, load_transformer
from ..models.progress import Progress
from ..models.record import TierRecord
from ..models.spec import TransformerSpec
from ..models.transformer import Transformer
from .calibration import Calibration
from .windows import Windows


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

    device: where it computes. wide: a later stage rounds the weights, so that until then they are kept as exactly as
    they were learned.
    """

    original: Checkpoint
    calibration: Calibration
    seed: int
    scratch: Path
    progress: Progress
    device: torch.device
    wide: bool = False

    @property
    def windows(self) -> Windows:
        """What goes through a model that a stage looks at."""
        return self.calibration.looked_at(self.device)

    def load(self, checkpoint: Checkpoint) -> Transformer:
        """A model to look at, where this stage computes."""
        return load_exact(checkpoint, self.device)


def load_exact(checkpoint: Checkpoint, device: torch.device) -> Transformer:
    """A model whose arithmetic is fp32 on every device, so that what is found on one is what another finds."""
    return load_transformer(checkpoint, device, "float32")
