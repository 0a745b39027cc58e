"""Attention's inputs as a second place to save: those of small magnitude left out, beside an FFN of bit planes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...compress.moefy.thresholds import ScoreHistogram
from ...models.progress import Progress
from ...models.transformer import Attention
from .layer import LabLayer
from .method import CalibrationData, Form, NotHere, Used
from .planes import Planes


class AttentionCut:
    """The inputs of query, key and value, and of the output, of every layer (TEAL, Liu et al. 2024, with one share).

    Inputs of one layer have a threshold each, set on what `recording` saw.
    """

    def __init__(self, attentions: Sequence[Attention]) -> None:
        self._places = [_Place(linears) for each in attentions for linears in (_first_linears(each), [each.output])]
        self._recorded = False

    @property
    def recorded(self) -> bool:
        return self._recorded

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Shows whatever passes, and leaves it as it is."""
        with self._hooked(_Place.record):
            yield
        self._recorded = True

    @contextmanager
    def keeping(self, share: float) -> Iterator[None]:
        """Keeps about this share of the inputs."""
        for place in self._places:
            place.set(share)
        with self._hooked(_Place.cut):
            yield

    def kept(self, layer: int) -> float:
        """The share of attention's bytes that a token read in a layer since `keeping` began."""
        first, output = self._places[2 * layer : 2 * layer + 2]
        read = first.kept * first.weights + output.kept * output.weights
        return read / (first.weights + output.weights)

    @contextmanager
    def _hooked(self, hook: "Callable[[_Place, Tensor], Tensor | None]") -> Iterator[None]:
        def before(place: _Place) -> "Callable[[nn.Module, tuple[Tensor, ...]], Tensor | None]":
            return lambda _, given: hook(place, given[0])

        handles = [
            linear.register_forward_pre_hook(before(place)) for place in self._places for linear in place.linears
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass
class _Place:
    """Linears of one input."""

    linears: Sequence[nn.Module]
    seen: ScoreHistogram = field(default_factory=ScoreHistogram)
    threshold: float = 0.0
    count: int = 0
    stayed: int = 0

    @property
    def weights(self) -> int:
        return sum(each.weight.numel() for each in self.linears if isinstance(each.weight, Tensor))

    @property
    def kept(self) -> float:
        return self.stayed / max(1, self.count)

    def record(self, x: Tensor) -> None:
        self.seen.add(x.abs())

    def set(self, share: float) -> None:
        self.threshold = self.seen.threshold_for_share(share)
        self.count = self.stayed = 0

    def cut(self, x: Tensor) -> Tensor:
        stays = x.abs() > self.threshold
        self.count, self.stayed = self.count + x.numel(), self.stayed + int(stays.sum())
        return torch.where(stays, x, torch.zeros_like(x))


def _first_linears(attention: Attention) -> list[nn.Module]:
    return list(attention.packed) if attention.packed else [attention.query, attention.key, attention.value]


@dataclass
class WithAttention:
    """Bit planes, and of attention's inputs the part `kept`. A share is one of the int8 bytes of FFN and attention."""

    planes: Planes
    kept: float
    group: str = "with attention"
    name: str = ""
    cut: AttentionCut | None = None
    _layers: list[LabLayer] = field(default_factory=list)
    _attention: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.planes.name}, {self.kept:.0%} of attention's inputs"

    @property
    def compensate(self) -> bool:
        return self.planes.compensate

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self.planes.learn(material, progress)
        self._layers, self._attention = material.layers, material.attention_bytes

    def form(self, index: int, x: Tensor, share: float) -> Form:
        if self.cut is None:
            raise RuntimeError("the lab sets cut")
        whole, attention = self._layers[index].whole_bytes, self._attention[index]
        of_ffn = (share * (whole + attention) - self.kept * attention) / whole
        if of_ffn <= 0:
            raise NotHere(f"attention alone is more than {share:.2f} of the bytes")
        form, read = self.planes.form(index, x, min(1.0, of_ffn)), self.cut.kept(index)

        def compute(given: Tensor) -> Used:
            used = form(given)
            return Used(used.y, (used.bytes * whole + read * attention) / (whole + attention), used.neurons)

        return compute
