"""What a pass of a model is made of, whoever runs it: cpp/program.cpp any, kernels/decode/ a decode step on a GPU.

A place is a table of rows in fp32 that instructions read and write; a view is some columns of it. Whoever writes a
program makes its places, then its instructions in order, each with the operands of the module that it stands for.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from .digit_linear import DigitWeights
from .expert_weights import ExpertWeights
from .graded_linear import GradedWeights
from .mixture.weights import MixtureWeights
from .paged_attention import KVPages
from .plane_ffn import PlaneWeights
from .weighing import PLAIN, Weighing

AMONG = ("all", "full", "sparse")  # rows: all of a step, those at the full tier, which come first, and the others
Among = Literal["all", "full", "sparse"]


@dataclass(frozen=True, slots=True)
class View:
    """`width` columns of a place, from `offset` on; rows are `stride` apart."""

    place: int
    width: int
    stride: int
    offset: int = 0

    def columns(self, offset: int, width: int) -> "View":
        """Some of these columns."""
        return View(self.place, width, self.stride, self.offset + offset)

    def joined(self, following: "View") -> "View":
        """These columns and those that follow them."""
        return View(self.place, self.width + following.width, self.stride, self.offset)


@dataclass(frozen=True, slots=True)
class Points:
    """What the tiers ask of an FFN that chooses neurons; an operating point between two lies on the line between them.

    thresholds: fp32 [tiers, 2]; constants: fp32 [tiers, hidden], added to what the FFN gives; units: the row of
    `Counted.units` that it counts in. Rows at the full tier know nothing of them.
    """

    thresholds: Tensor
    constants: Tensor
    units: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which experts of a mixture a row is made of: the `active` of highest chance. Parts are chances, over the sum of
    those taken where `normalised`.

    counts: fp32 [tiers], how many a row takes that is not full, rounded up from `rounding` above a whole number; None:
    as many as a full one. neurons: of an expert. units: the row of `Counted.units` that neurons are counted in.
    """

    active: int
    normalised: bool
    counts: Tensor | None
    rounding: float
    neurons: int
    units: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What rows read. Of graded linears, bits: int64 [prices, rows], neurons: int64 [rows]. Of FFNs that choose
    neurons, units: int64 [prices, 2, rows], neurons computed and neurons refined; 0 of rows at the full tier.
    """

    bits: Tensor
    neurons: Tensor
    units: Tensor


class Instructions(Protocol):
    """Who takes them. The first place is what goes in, the last one that is written what comes out."""

    input: View

    def place(self, width: int) -> View:
        """A new table of so many columns."""
        ...

    def widened(self, view: View, width: int) -> View:
        """So many columns of the table of a view, which has room for them from now on; what it held is lost."""
        ...

    def norm(self, source: View, target: View, weight: Tensor, bias: Tensor | None, eps: float, layer: bool) -> None:
        """RMS norm, or layer norm, of every vector that is as wide as the weight."""
        ...

    def digit_linear(self, source: View, target: View, weights: DigitWeights) -> None: ...

    def graded_linear(self, source: View, target: View, weights: GradedWeights, price: int, neurons: bool) -> None:
        """price: the row of `Counted.bits` that it counts in; neurons: whether its inputs are neurons."""
        ...

    def dense_linear(self, source: View, target: View, weight: Tensor, bias: Tensor | None) -> None: ...

    def among(self, rows: Among) -> None:
        """From here on only these rows. What stands between this and `among("all")` are instructions of one FFN."""
        ...

    def plane_ffn(
        self, source: View, target: View, weights: PlaneWeights, bits: int, tile: int, activation: str, points: Points
    ) -> None:
        """kernels/plane_ffn.py, for rows that are not full, and the constant."""
        ...

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
        """kernels/expert_ffn.py, and the constant: of the experts whose score is not at or below the first threshold,
        for rows at the full tier all, without a constant. router: both matrices of kernels/route.py.
        """
        ...

    def rotate(self, target: View, size: int, turned: int, table: int = 0) -> None:
        """Turns the first `turned` of heads of so many values, in place; table: the column where its turns begin."""
        ...

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
        """Stores keys and values, then attends; size: of a head; distances: whether scores have added to them what the
        run says of how far ahead a key stands.
        """
        ...

    def look_up(self, query: View, target: View, pages: KVPages, size: int, weighing: Weighing = PLAIN) -> None:
        """Attends to what a row's source has in the pages."""
        ...

    def keep(self, key: View, value: View, pages: KVPages, size: int) -> None:
        """Stores keys and values of rows that are a source, where whoever goes on from it looks them up."""
        ...

    def scale(self, source: View, target: View, factor: float) -> None: ...

    def shift(self, target: View, vector: Tensor) -> None:
        """Adds the vector, fp32 [width], to every row, in place."""
        ...

    def activate(self, source: View, target: View, activation: str, gate: View | None = None) -> None:
        """act(source), or act(gate) * source."""
        ...

    def add(self, source: View, target: View) -> None: ...

    def gather(self, source: View, target: View) -> None:
        """From here on only the rows that are scored."""
        ...


class ByExpert(Instructions, Protocol):
    """Who computes a mixture expert by expert, each for the rows that take it."""

    def choose_experts(self, source: View, target: View, sum: View, choice: Choice) -> None:
        """What each expert of a mixture counts for each row, of the choice's scores of them all; clears the sum."""
        ...

    def take(self, source: View, target: View, parts: View, expert: int) -> None:
        """From here on only the rows that an expert counts for, gathered; parts: the target of `choose_experts`."""
        ...

    def give(self, source: View, target: View, parts: View, expert: int) -> None:
        """Adds what an expert made of the rows that it took, times its part, to their sum; all rows again."""
        ...


@runtime_checkable
class AtOnce(Instructions, Protocol):
    """Who computes a mixture as one."""

    def mixture_ffn(
        self, source: View, target: View, weights: MixtureWeights, matrix: Tensor, activation: str, choice: Choice
    ) -> None:
        """kernels/mixture_ffn.py; matrix: [experts, hidden], which scores them."""
        ...
