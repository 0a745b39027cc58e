"""What the curves compare: ways to compute a part of an FFN, each given a share of its bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...models.progress import Progress
from .layer import LabLayer


@dataclass(frozen=True, slots=True)
class Used:
    """y [tokens, hidden]; shares of the FFN's int8 bytes, routing included, and of its neurons, fp32 [tokens]."""

    y: Tensor
    bytes: Tensor
    neurons: Tensor


Form = Callable[[Tensor], Used]  # x [tokens, hidden]


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """What a method may learn from: the layers, what the dense model gives them on the calibration text, and the
    importance of their neurons; attention_bytes: of each layer's other matrices, in int8 with their scales.
    """

    layers: list[LabLayer]
    given: list[Tensor]  # [tokens, hidden] each
    importance: list[Tensor]  # [width] each
    attention_bytes: list[int]
    seed: int


class Method(Protocol):
    """A way to spend a share of the bytes."""

    name: str
    group: str

    @property
    def compensate(self) -> bool:
        """Whether a constant per layer stands in for what is left out."""
        ...

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        """Learns what does not depend on the share. Raises NotHere where the method is not for such FFNs."""
        ...

    def form(self, index: int, x: Tensor, share: float) -> Form:
        """The form of one layer at a share, from what it is given on the calibration text. Raises NotHere."""
        ...


def error_of(layer: LabLayer, x: Tensor, form: Form, compensated: bool) -> float:
    """How far a form's output lies from the dense layer's; compensated: once the mean difference is made up for."""
    y = form(x).y
    left = layer.dense(x) - y
    return float((left - left.mean(0) if compensated else left).norm())


class NotHere(Exception):
    """The method is not for this model, or not for this share: the message says why."""
