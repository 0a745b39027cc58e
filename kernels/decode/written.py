"""Instructions of a decode step as they were written (kernels/instructions.py), before launches are made of them."""

from dataclasses import dataclass

from torch import Tensor

from ..digit_linear import DigitWeights
from ..expert_weights import ExpertWeights
from ..graded_linear import GradedWeights
from ..instructions import Choice, Points, View
from ..mixture.weights import MixtureWeights
from ..paged_attention import KVPages
from ..planes.layout import PackedPlanes
from ..rows import RowNorm
from ..weighing import Weighing


@dataclass(frozen=True)
class Norm:
    source: View
    target: View
    norm: RowNorm


@dataclass(frozen=True)
class Linear:
    source: View
    target: View
    weights: DigitWeights | GradedWeights | tuple[Tensor, Tensor | None]
    price: int = -1
    neurons: bool = False


@dataclass(frozen=True)
class Attend:
    query: View
    key: View
    value: View
    target: View
    pages: KVPages
    size: int
    weighing: Weighing
    turned: tuple[int, int]  # how many values of a head, and the column of the tables where their turns begin


@dataclass(frozen=True)
class Activate:
    source: View
    target: View
    activation: str
    gate: View | None


@dataclass(frozen=True)
class Add:
    source: View
    target: View


@dataclass(frozen=True)
class Shift:
    target: View
    vector: Tensor


@dataclass(frozen=True)
class Gather:
    source: View
    target: View


@dataclass(frozen=True)
class TwoWays:
    """Instructions of an FFN for rows at the full tier, and the one for the others."""

    full: list["Instruction"]
    sparse: "Planes"


@dataclass(frozen=True)
class Planes:
    source: View
    target: View
    packed: PackedPlanes
    activation: str
    points: Points


@dataclass(frozen=True)
class Tiles:
    source: View
    target: View
    weights: ExpertWeights
    router: tuple[Tensor, Tensor]
    tile: int
    activation: str
    points: Points


@dataclass(frozen=True)
class Mixture:
    source: View
    target: View
    weights: MixtureWeights
    matrix: Tensor
    activation: str
    choice: Choice


Instruction = Norm | Linear | Attend | Activate | Add | Shift | Gather | TwoWays | Tiles | Mixture


def is_twofold(each: Instruction | Planes) -> bool:
    """Whether it is read as tiles or by planes, whose parts of a row add up in another order."""
    return isinstance(each, Linear) and isinstance(each.weights, GradedWeights) and each.weights.tiles is not None
