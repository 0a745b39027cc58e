"""How an engine is set up, and how it describes itself. No torch, so that a front end may import it."""

from dataclasses import dataclass

from ..models.dial import Dial


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """None means: chosen from the machine and the model. kv_memory is in bytes.

    step_share: the rows of a decode step choose their neurons together, eight at a time, so that each eight read about
    this part of the FFN's bytes at most; an answer then depends on those beside it. None: each row computes what it
    would alone.
    """

    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    max_context: int | None = None
    kv_memory: int | None = None
    num_slots: int = 8
    seed: int = 0
    step_share: float | None = None


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is running, as it is told to clients and printed at start."""

    family: str
    num_parameters: int
    weight_bytes: int
    vocab_size: int
    max_context: int
    stages: tuple[str, ...]
    dial: Dial
    device: str
    dtype: str
    threads: int
    num_slots: int

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers, the full one first."""
        return self.dial.names
