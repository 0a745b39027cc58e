"""A decode step on a GPU: instructions are taken as cpp/program.cpp takes them, and run as a few launches (join.py).

Nothing in a step waits for the device or depends on values, so that a CUDA graph can hold it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..digit_linear import DigitWeights
from ..digit_triton import MOST_TOKENS
from ..expert_weights import ExpertWeights
from ..graded_linear import GradedWeights
from ..instructions import Among, Choice, Points, View
from ..mixture.weights import MixtureWeights
from ..paged_attention import KVPages
from ..plane_ffn import PlaneWeights, pack
from ..rows import LAYER, RMS, RowNorm
from ..weighing import PLAIN, Weighing
from .buffers import Buffers
from .join import Launch, joined
from .written import (
    Activate,
    Add,
    Attend,
    Gather,
    Instruction,
    Linear,
    Mixture,
    Norm,
    Planes,
    Shift,
    Tiles,
    TwoWays,
    is_twofold,
)


class DecodeProgram:
    """Takes instructions (kernels/instructions.py), then `join`; `run` makes the step of some rows, one token each.

    `x`: fp32 [rows, width], and what buffers say of rows are to be filled before a run.
    """

    def __init__(
        self,
        width: int,
        longest: int,
        device: torch.device,
        turn: tuple[Tensor, Tensor] | None,
        rows: int = MOST_TOKENS,
    ) -> None:
        self.buffers = Buffers(rows, longest, device, turn)
        self._instructions: list[Instruction] = []
        self._aside: list[Instruction] = []
        self._turned: dict[int, tuple[int, int]] = {}
        self.launches: Sequence[Launch] = ()
        self.whole: Sequence[Launch] = ()  # of a step whose rows are all at the full tier
        self.input = self.output = self.place(width)

    @property
    def x(self) -> Tensor:
        """What goes in."""
        return self.buffers.at(self.input)

    def place(self, width: int) -> View:
        return self.buffers.place(width)

    def widened(self, view: View, width: int) -> View:
        return self.buffers.widened(view, width)

    def norm(self, source: View, target: View, weight: Tensor, bias: Tensor | None, eps: float, layer: bool) -> None:
        weight, offset = weight.detach(), None if bias is None else bias.detach()
        if layer and offset is None:
            offset = torch.zeros_like(weight)
        self._instructions.append(Norm(source, target, RowNorm(LAYER if layer else RMS, weight, offset, eps)))

    def digit_linear(self, source: View, target: View, weights: DigitWeights) -> None:
        self._write(Linear(source, target, weights))

    def graded_linear(self, source: View, target: View, weights: GradedWeights, price: int, neurons: bool) -> None:
        self._write(Linear(source, target, weights, price, neurons))

    def dense_linear(self, source: View, target: View, weight: Tensor, bias: Tensor | None) -> None:
        offset = None if bias is None else bias.detach().to(weight.dtype)
        self._write(Linear(source, target, (weight.detach(), offset)))

    def among(self, rows: Among) -> None:
        """Instructions between "full" and "sparse" are kept aside for the FFN that follows them."""
        if rows == "full":
            self._aside, self._instructions = self._instructions, []
        elif rows == "sparse":
            self._aside, self._instructions = self._instructions, self._aside

    def plane_ffn(
        self, source: View, target: View, weights: PlaneWeights, bits: int, tile: int, activation: str, points: Points
    ) -> None:
        packed = weights.packed or pack(weights, bits)
        self._write(TwoWays(self._aside, Planes(source, target, packed, activation, points)))

    def expert_ffn(
        self,
        source: View,
        target: View,
        weights: ExpertWeights,
        router: tuple[Tensor, Tensor],
        tile: int,
        activation: str,
        points: Points,
    ) -> None:
        matrices = router[0].detach(), router[1].detach()
        self._write(Tiles(source, target, weights, matrices, tile, activation, points))

    def mixture_ffn(
        self, source: View, target: View, weights: MixtureWeights, matrix: Tensor, activation: str, choice: Choice
    ) -> None:
        self._write(Mixture(source, target, weights, matrix.detach(), activation, choice))

    def rotate(self, target: View, size: int, turned: int, table: int = 0) -> None:
        self._turned[target.place] = turned, table  # by whoever attends to it next

    # Only a decoder with an encoder is written with these, and models/device_step.py refuses it before it is written.

    def look_up(self, query: View, target: View, pages: KVPages, size: int, weighing: Weighing = PLAIN) -> None:
        raise NotImplementedError("there is no launch for attention to a source")

    def keep(self, key: View, value: View, pages: KVPages, size: int) -> None:
        raise NotImplementedError("there is no launch for attention to a source")

    def scale(self, source: View, target: View, factor: float) -> None:
        raise NotImplementedError("there is no launch for scaled states")

    def attend(
        self,
        query: View,
        key: View,
        value: View,
        target: View,
        pages: KVPages,
        size: int,
        weighing: Weighing = PLAIN,
        distances: bool = False,
    ) -> None:
        if distances:
            raise NotImplementedError("there is no launch for distances")
        turned = self._turned.pop(query.place, (0, 0))
        self._turned.pop(key.place, None)  # it turns as the query does
        self._write(Attend(query, key, value, target, pages, size, weighing, turned))

    def activate(self, source: View, target: View, activation: str, gate: View | None = None) -> None:
        self._write(Activate(source, target, activation, gate))

    def shift(self, target: View, vector: Tensor) -> None:
        self._instructions.append(Shift(target, vector.detach()))

    def add(self, source: View, target: View) -> None:
        self._write(Add(source, target))

    def gather(self, source: View, target: View) -> None:
        self._write(Gather(source, target))

    def _write(self, instruction: Linear | Attend | Activate | Add | Gather | TwoWays | Tiles | Mixture) -> None:
        self._instructions.append(instruction)
        self.output = (instruction.sparse if isinstance(instruction, TwoWays) else instruction).target

    def join(self) -> None:
        """Makes launches of what was written, with their buffers."""
        self.launches = joined(self._instructions, self.buffers)
        twofold = any(map(is_twofold, self._instructions))
        self.whole = joined(self._instructions, self.buffers, whole=True) if twofold else self.launches

    def launched(self, rows: int, full: int) -> Iterator[tuple[Launch, slice]]:
        """What a step of so many rows launches, of which the first `full` are at the full tier, and for which rows."""
        parts = {"all": slice(0, rows), "full": slice(0, full), "sparse": slice(full, rows)}
        for launch in self.whole if full == rows else self.launches:
            part = parts[launch.among]
            if part.start < part.stop:
                yield launch, part

    def num_launches(self, full: bool = True) -> int:
        """Of kernels, in a step of one row that is at the full tier, or is not."""
        return sum(launch.count for launch, _ in self.launched(1, int(full)))

    def run(self, rows: int, full: int) -> Tensor:
        """fp32 [rows, outputs] of the first rows, in a buffer of this program; `full` of them are at the full tier."""
        self.buffers.full = full
        for launch, part in self.launched(rows, full):
            launch.call(part)
        return self.buffers.at(self.output)[:rows]
