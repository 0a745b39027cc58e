"""Room that the launches of a decode step share, for the largest of its instructions."""

from collections.abc import Iterator, Sequence

from ..digit_linear import DigitWeights
from ..digit_triton import Scratch, rows_of, scratch_sizes
from ..expert_weights import ExpertWeights
from ..graded_linear import GradedWeights
from ..mixture.weights import MixtureWeights
from ..planes.layout import PackedPlanes
from ..planes.scratch import Scratch as PlaneScratch
from .buffers import Buffers
from .written import Instruction, Linear, Mixture, Tiles, TwoWays


def _every(instructions: Sequence[Instruction]) -> Iterator[Instruction]:
    """Those within choices too."""
    for each in instructions:
        yield from _every(each.full) if isinstance(each, TwoWays) else [each]


def digit_scratch(instructions: Sequence[Instruction], buffers: Buffers) -> Scratch:
    """Room for the products of any of these linears, for any number of rows."""
    sizes = [(1, 1, 1)]
    for each in _every(instructions):
        digits = _digits_of(each) if isinstance(each, Linear) else None
        if digits is not None:
            tiles = digits.tiles
            counts = {rows_of(n) for n in range(1, buffers.rows + 1)}
            sizes += [scratch_sizes(n, tiles, gated) for n in counts for gated in (False, True)]
    return Scratch.of(buffers.device, *(max(column) for column in zip(*sizes, strict=True)))


def _digits_of(linear: Linear) -> DigitWeights | None:
    """Of a graded linear the second copy."""
    weights = linear.weights
    if isinstance(weights, GradedWeights):
        return weights.tiles
    return weights if isinstance(weights, DigitWeights) else None


def neuron_scratch(instructions: Sequence[Instruction], buffers: Buffers) -> PlaneScratch:
    """Room for any of these FFNs."""
    ffns: list[PackedPlanes | ExpertWeights | MixtureWeights] = [
        each.sparse.packed for each in instructions if isinstance(each, TwoWays)
    ]
    ffns += [each.weights for each in instructions if isinstance(each, Tiles | Mixture)]
    widest = [max([1, *sizes]) for sizes in ([each.hidden for each in ffns], [each.width for each in ffns])]
    return PlaneScratch.of(buffers.device, *widest)
