"""Which methods are measured over all linears, and what a reader is told of each."""

from collections.abc import Sequence

import torch

from ....models.checkpoint import Checkpoint
from ..experts import Experts
from ..grid import default_method
from ..method import Method as FFNMethod
from ..planes import Planes
from ..static import Pruned
from .bounded import Bounded
from .graded import DEFAULT_LEVELS, Graded
from .lab import Method
from .matrices import FFN_AXIS, HEAD_AXIS
from .neurons import BothSides, FFNAlone
from .rivals import FewerBits, PlainPlan, by_size_alone, whole_or_not
from .tiles import GradedTiles, Router

SHARES = {"linears": (0.80, 0.75, 0.68, 0.62, 0.55, 0.50), "ffn": (0.20, 0.14, 0.12), "head": (0.75, 0.62, 0.55)}
LEVELS = (
    (0, 4, 8), (0, 4, 6, 8), (0, 2, 4, 6, 8), (0, 3, 5, 8), (0, 4, 5, 6, 8), (0, 4, 5, 6, 7, 8), (0, 3, 4, 6, 8),
    (0, 3, 4, 5, 6, 7, 8), (0, 2, 3, 4, 5, 6, 7, 8), (0, 3, 4, 5, 6, 8),
)  # fmt: skip
PLAIN_LEVELS = ((0, 1, 2, 4, 8), (0, 1, 2, 3, 4, 6, 8))  # for FFNs whose neurons are mostly off
BITS_OF_PLANES = (4, 3, 2)
ROUTERS: tuple[Router, ...] = ("perfect", "norm regression")


def methods_for(axis: str, checkpoint: Checkpoint, windows: torch.Tensor, seed: int) -> list[Method]:
    """All that are measured on an axis, the default first."""
    if axis == HEAD_AXIS:
        return [Graded(levels) for levels in LEVELS[:3]]
    planes = [FFNAlone(Planes(bits), checkpoint, windows, seed) for bits in BITS_OF_PLANES]
    if axis == FFN_AXIS:
        planes = [FFNAlone(default_method(checkpoint.spec, 0.2), checkpoint, windows, seed)]
        plain = [Graded(levels) for levels in (*LEVELS[1:3], *PLAIN_LEVELS)]
        both = [BothSides(Graded(PLAIN_LEVELS[1]), *each) for each in ((2.0,), (8.0,), (16.0,), (8.0, 2))]
        both += [BothSides(Graded(levels), 8.0) for levels in (LEVELS[2], PLAIN_LEVELS[0])]
        return [*plain, *planes, *both, *tiles(LEVELS[2], seed)]
    both = [BothSides(Graded(LEVELS[2]), ratio) for ratio in (2.0, 4.0)]
    alone = [FFNAlone(method, checkpoint, windows, seed) for method in of_ffns()]
    return [Graded(), *graded(), *bounded(), *rivals(), *planes, *alone, *both, *tiles(DEFAULT_LEVELS, seed)]


def graded() -> list[Graded]:
    """The default with one part changed."""
    levels = [Graded(each) for each in LEVELS if each != Graded().levels]
    known = [Graded(sensitivity=each) for each in ("fisher by output", "relative error", "none")]
    return [
        *levels, *known, Graded(column=False), Graded(stream="out"), Graded(stream="all"), Graded(one_price=False),
        Graded(fitted=True), Graded(constant=True), Graded(fitted=True, constant=True),
    ]  # fmt: skip


def bounded() -> list[Bounded]:
    """A bound for every token in place of one threshold for all of them."""
    return [
        Bounded("error"), Bounded("error", everywhere=True), Bounded("error", at_most=2.0),
        Bounded("error", relative=False), Bounded("error", relative=False, everywhere=True),
        Bounded("limit of the error"), Bounded("share"),
    ]  # fmt: skip


def rivals() -> Sequence[Method]:
    gptq = [FewerBits(bits, 32, by_gptq=True) for bits in (4, 5, 6)]
    nearest = [FewerBits(4), FewerBits(5), FewerBits(6), FewerBits(6, 0)]
    return [*gptq, FewerBits(4, by_gptq=True, ordered=False), *nearest, PlainPlan(), *by_size_alone(), *whole_or_not()]


def of_ffns() -> Sequence[FFNMethod]:
    """Rivals that know no other linears."""
    cats = [
        Experts(1, router="gate", compensate=False, group="gate", name="CATS"),
        Experts(1, router="scaled gate", group="gate", name="scaled CATS"),
    ]
    return [*cats, Pruned("Fisher"), Pruned("FLAP")]


def tiles(levels: Sequence[int], seed: int) -> list[GradedTiles]:
    """Skipped at the price of grading, and at a quarter of it."""
    each = [(size, router, ratio) for size in (16, 64) for router in ROUTERS for ratio in (1.0, 0.25)]
    return [GradedTiles(Graded(tuple(levels)), *one, seed) for one in each]


DRAWN = (  # in the picture
    "inputs at 0, 4, 6 and 8 bits", "inputs at 0, 2, 4, 6 and 8 bits", "inputs at 0, 4, 5, 6 and 8 bits",
    "inputs at 0, 3, 4, 5, 6 and 8 bits",
    "both sides, inputs at 0, 2, 4, 6 and 8 bits, first at 8 times the price",
    "neurons by planes, high 1 bit, then 4", "neurons by planes, high 3 bits, then 6",
    "neurons by planes, high 4 bits, then 6", "inputs at fixed shares of levels", "int4 by GPTQ, groups of 32",
    "int5 by GPTQ, groups of 32", "int6 by GPTQ, groups of 32", "int4 to nearest, groups of 32",
    "int5 to nearest, groups of 32", "int6 to nearest, groups of 32", "int6 to nearest, a row",
    "GRINQH, 0, 2, 4 and 8 bits", "TEAL", "WINA",
    "WINA, shares as WiSparse's", "CATS", "scaled CATS", "Fisher pruning",
    "TEAL and WINA at one price", "tiles of 16, perfect router, inputs at 0, 4, 6 and 8 bits",
    "tiles of 64, norm regression router, inputs at 0, 4, 6 and 8 bits",
    "tiles of 16, perfect router, inputs at 0, 2, 4, 6 and 8 bits",
    "tiles of 64, norm regression router, inputs at 0, 2, 4, 6 and 8 bits",
)  # fmt: skip
NAMES = (
    "Inputs at 0, 4, 6 and 8 bits: of each column of an int8 matrix so many high bits are read as the size of its "
    "input is worth, at one price of a byte for all matrices; what an error of an output costs is the mean Fisher "
    "information of its matrix, on calibration text. Query, key and value share their inputs, gate and up too. Its "
    "other lines change one part: levels; Fisher by output, the error relative to what a matrix gives, or no "
    "sensitivity; |x| without the column; inputs beside the rms of the stream; the same share in every matrix; a scale "
    "fitted for each row and level; the mean of what is left out added as a constant. At fixed shares: by rank, "
    "unpriced.",
    "GPTQ is a re-implementation (columns by falling diagonal of the Hessian, static groups, 1 % damping, scales by a "
    "search weighted by that diagonal, inputs of a matrix as those before it give them rounded), on the calibration "
    "text that ships; to nearest has the same search of scales. A group has a 16-bit scale. TEAL and WINA read an "
    "input's column whole or not at all, the same share in every matrix, with no search of shares; at one price they "
    "have ours. WiSparse searches shares of blocks and then of matrices; here they are by the error of what a matrix "
    "gives, beside its size. GRINQH is what its abstract says, levels of bits by |x| alone, on our int8 grid, not by "
    "its paper's own quantizer. CATS and pruning know FFNs alone: attention is whole in int8. Scaled CATS is ours: the "
    "gate's value times what up and down usually add. Fisher pruning goes by Var[h] importance^2. It, FLAP and scaled "
    "CATS have a constant for what is left out, CATS has none.",
    "Neurons by planes: as recipes had them, of the FFN, with attention whole in int8. Both sides: a first look at the "
    "inputs at a higher price foresees the neurons, and only those that are worth it get the rest. Tiles: of neurons "
    "with similar rows; one whose squared norm, times what an error costs, is not worth the price of its bytes is "
    "skipped, the rest is graded. The perfect router knows the norms for nothing; the other is the regression of "
    "D2DMoE, in bf16.",
)
