"""Instructions of a decode step as launches, joined where one launch does several.

norm and linear                     the product takes its inputs normalised (kernels/rows.py)
linear and activation, or addition  the product finishes with it
rotation and attention              one launch, which stores keys and values too (attend.py)
gather                              nothing: each row of a decode step is scored
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import functional

from ..digit_linear import DigitWeights
from ..digit_triton import BLOCK, digit_rows
from ..graded.finish import GATED_OUTPUTS, Sums, finish_, parts_of
from ..graded.layout import plane_starts
from ..graded.lists import listed
from ..graded.multiply import partial_sums
from ..graded_linear import GradedWeights
from ..instructions import Among, View
from ..jit import cdiv
from ..mixture.launches import Room, mixture_rows
from ..mixture.launches import num_launches as mixture_launches
from ..planes.asked import Asked
from ..planes.launches import COUNT as PLANE_LAUNCHES
from ..planes.launches import plane_rows
from ..rows import RMS, RowNorm, Rows, Target, measure_
from ..tiles.launches import COUNT as TILE_LAUNCHES
from ..tiles.launches import tile_rows
from ..tiles.route import Routing
from .attend import Heads, Parts, attend_rows
from .buffers import Buffers
from .elementwise import BLOCK as VALUES
from .elementwise import activate_, normalise_, normalise_vectors_
from .room import digit_scratch, neuron_scratch
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


@dataclass(frozen=True)
class Launch:
    """count: of kernels; call: does it for these rows of all buffers; among: which rows those are."""

    name: str
    count: int
    call: Callable[[slice], None]
    among: Among = "all"


def joined(instructions: Sequence[Instruction], buffers: Buffers, whole: bool = False) -> Sequence[Launch]:
    """What a step launches, in order. whole: all rows are full, for which graded linears take the tiles they have."""
    return _Joiner(buffers, instructions, whole).launches


class _Joiner:
    """The walk that turns instructions into launches."""

    def __init__(self, buffers: Buffers, instructions: Sequence[Instruction], whole: bool) -> None:
        self._whole = whole
        self.launches: list[Launch] = []
        self._buffers = buffers
        self._source: dict[int, tuple[View, RowNorm | None]] = {}  # what a place stands for that nobody fills
        self._largest: dict[int, Tensor] = {}  # fp32 [rows, parts] of places whose writer told
        self._measured: dict[int, tuple[int, Rows]] = {}  # by the place that is taken, with the one that holds values
        self._normed: dict[int, tuple[RowNorm, Rows]] = {}  # of places whose writer told what a norm needs
        self._scratch = digit_scratch(instructions, buffers)
        self._planes = neuron_scratch(instructions, buffers)
        self._shared: dict[tuple[int, int, int], Parts] = {}
        self._rooms: dict[tuple[int, ...], Room] = {}
        self._among: Among = "all"
        self._ends: tuple[View, Target] | None = None  # where both of two ways end
        rest = list(instructions)
        while rest:
            del rest[: self._join(rest)]

    def _join(self, rest: Sequence[Instruction]) -> int:
        """Launches the first instruction, and those behind it that go with it; how many they were."""
        first = rest[0]
        if isinstance(first, Norm) and (first.source == first.target or len(first.norm.weight) != first.source.width):
            self._normalise(first)
        elif isinstance(first, Norm):
            self._source[first.target.place] = first.source, first.norm
            self._measured.pop(first.target.place, None)
        elif isinstance(first, Gather):
            self._source[first.target.place] = self._source.get(first.source.place, (first.source, None))
        elif isinstance(first, Attend):
            self._attend(first)
        elif isinstance(first, Activate):
            self._activate(first)
        elif isinstance(first, Add):
            self._add(first)
        elif isinstance(first, Shift):
            self._shift(first)
        elif isinstance(first, Tiles):
            return self._tiles(first, *[*rest[1:3], None, None][:2])
        elif isinstance(first, Mixture):
            return self._mixture(first, *[*rest[1:3], None, None][:2])
        elif isinstance(first, TwoWays):
            return self._two_ways(first, *[*rest[1:3], None, None][:2])
        else:
            return self._linear(first, *[*rest[1:3], None, None][:2])
        return 1

    def _two_ways(self, ways: TwoWays, then: Instruction | None, after: Instruction | None) -> int:
        """Two ways to the same target: what rows take one of them tell of it, the others tell in the same place."""
        planes, add = ways.sparse, then if isinstance(then, Add) and then.source == ways.sparse.target else None
        place = (add or planes).target
        self._ends = place, self._target(planes, add, after, cdiv(place.width, BLOCK))
        before, self._among = self._known(), "full"
        rest = [*ways.full, *([add] if add else [])]
        while rest:
            del rest[: self._join([*rest, after] if add and after else rest)]
        self._source, self._largest, self._measured, self._normed = before
        self._among = "sparse"
        self._plane_ffn(planes, *self._ends, after)
        self._ends, self._among = None, "all"
        return 2 if add else 1

    def _known(self) -> tuple[dict[int, Any], ...]:
        """Copies of what is known of places."""
        return tuple(dict(known) for known in (self._source, self._largest, self._measured, self._normed))

    def _plane_ffn(self, planes: Planes, place: View, target: Target, after: Instruction | None) -> None:
        buffers, points, packed, scratch = self._buffers, planes.points, planes.packed, self._planes
        rows, counts = self._unmeasured(planes.source), buffers.units_of(points.units, every=False)
        asked = Asked(points.thresholds, points.constants, buffers.tiers, buffers.shares)

        def call(part: slice) -> None:
            found = counts[: 2 * (part.stop - part.start)].view(2, -1)
            plane_rows(target.some(part), found, rows.some(part), packed, asked.some(part), planes.activation, scratch)

        self._launch("planes", place, call, target, after, PLANE_LAUNCHES)

    def _tiles(self, tiles: Tiles, then: Instruction | None, after: Instruction | None) -> int:
        add = then if isinstance(then, Add) and then.source == tiles.target else None
        buffers, points, (first, second) = self._buffers, tiles.points, tiles.router
        rows, counts = self._unmeasured(tiles.source), buffers.units_of(points.units, every=True)
        scratch, routing = self._planes, Routing.of(buffers.device, len(second), len(first))
        asked = Asked(points.thresholds, points.constants, buffers.tiers, buffers.shares)
        place = (add or tiles).target
        target = self._target(tiles, add, after, cdiv(place.width, BLOCK))

        def call(part: slice) -> None:
            ffn = tiles.weights, tiles.router, tiles.tile, tiles.activation
            found = counts[: 2 * part.stop].view(2, -1)
            room = asked.some(part), buffers.full, scratch, routing
            tile_rows(target.some(part), found, rows.some(part), *ffn, *room)

        self._launch("tiles", place, call, target, after, TILE_LAUNCHES)
        return 2 if add else 1

    def _mixture(self, mixture: Mixture, then: Instruction | None, after: Instruction | None) -> int:
        add = then if isinstance(then, Add) and then.source == mixture.target else None
        buffers, weights, choice, scratch = self._buffers, mixture.weights, mixture.choice, self._planes
        rows, counts = self._unmeasured(mixture.source), buffers.units_of(choice.units, every=True)
        key = *weights.up.shape, choice.active
        if key not in self._rooms:
            self._rooms[key] = Room.of(weights, choice.active)
        room = self._rooms[key]
        place = (add or mixture).target
        target = self._target(mixture, add, after, cdiv(place.width, BLOCK))

        def call(part: slice) -> None:
            found, asked = counts[: 2 * part.stop].view(2, -1), (buffers.tiers[part], buffers.shares[part])
            ffn = weights, mixture.matrix, choice, mixture.activation
            mixture_rows(target.some(part), found, rows.some(part), *ffn, asked, buffers.full, scratch, room)

        self._launch("mixture", place, call, target, after, mixture_launches(weights))
        return 2 if add else 1

    def _linear(self, linear: Linear, then: Instruction | None, after: Instruction | None) -> int:
        add = then if isinstance(then, Add) and then.source == linear.target else None
        act = then if isinstance(then, Activate) and _is_of(then, linear) else None
        if isinstance(linear.weights, GradedWeights) and linear.weights.tiles and self._whole:
            self._digits(linear, linear.weights.tiles, add or act, after)
        elif isinstance(linear.weights, GradedWeights):
            self._graded(linear, linear.weights, add or act, after)
        elif isinstance(linear.weights, DigitWeights):
            self._digits(linear, linear.weights, add or act, after)
        else:
            act = None
            self._dense(linear, *linear.weights, add)
        return 2 if add or act else 1

    def _digits(
        self, linear: Linear, weights: DigitWeights, then: Add | Activate | None, after: Instruction | None
    ) -> None:
        rows, scratch, bias = self._rows(linear.source), self._scratch, weights.bias
        scale, offset = weights.scale.detach(), None if bias is None else bias.detach().contiguous()
        target = self._target(linear, then, after, cdiv((then or linear).target.width, BLOCK))

        def call(part: slice) -> None:
            digit_rows(rows.some(part), weights.tiles, scale, offset, target.some(part), scratch)

        self._launch("digits", (then or linear).target, call, target, after)

    def _graded(
        self, linear: Linear, weights: GradedWeights, then: Add | Activate | None, after: Instruction | None
    ) -> None:
        rows, thresholds, counts = self._rows(linear.source), self._buffers.thresholds, self._buffers.counts_of(linear)
        (scale, worth, bias), packed = weights.vectors, weights.packed
        gated = isinstance(then, Activate) and then.gate is not None
        target = self._target(linear, then, after, parts_of(2 * plane_starts(packed.outputs, packed.planes)[1], gated))

        def call(part: slice) -> None:
            lists = listed(rows.some(part), worth, thresholds[part])
            sums = Sums(partial_sums(packed, lists), lists.facts, lists.step, scale, bias)
            finish_(target.some(part), counts[: 2 * part.stop].view(2, -1), sums)

        self._launch("graded", (then or linear).target, call, target, after, count=3)

    def _target(
        self,
        linear: Linear | Planes | Tiles | Mixture,
        then: Add | Activate | None,
        after: Instruction | None,
        parts: int,
    ) -> Target:
        """Where a product goes, with what follows it, and in so many parts what whoever comes next needs to know."""
        view = (then or linear).target
        if self._ends and view == self._ends[0]:
            return self._ends[1]
        target = Target(self._buffers.at(view), isinstance(then, Add))
        if isinstance(then, Activate):
            gated = then.gate is not None
            return replace(target, activation=then.activation, gated=gated, largest=self._buffers.room(parts))
        if isinstance(then, Add) and isinstance(after, Norm) and _is_told(then, after) and not is_twofold(linear):
            return replace(
                target, largest=self._buffers.room(parts), squares=self._buffers.room(parts), weights=after.norm.weight
            )
        return target

    def _dense(self, linear: Linear, weight: Tensor, bias: Tensor | None, add: Add | None) -> None:
        view, norm = self._source.get(linear.source.place, (linear.source, None))
        x, target = self._buffers.at(view), self._buffers.at((add or linear).target)
        rows, like = self._rows(linear.source) if norm else None, weight.new_empty(len(x), x.shape[1])

        def call(part: slice) -> None:
            if rows is not None:
                normalise_(like[part], rows.some(part))
            else:
                like[part].copy_(x[part])
            y = functional.linear(like[part], weight, bias)
            target[part].copy_(target[part] + y if add else y)

        self._launch("dense", (add or linear).target, call, count=3 + bool(add))

    def _attend(self, attend: Attend) -> None:
        buffers, size = self._buffers, attend.size
        heads, kv_heads = attend.query.width // size, attend.key.width // size
        key = heads, kv_heads, size
        if key not in self._shared:
            self._shared[key] = Parts.of(buffers.rows, heads, kv_heads, size, buffers.longest, buffers.device)
        parts = self._shared[key]
        query, keys, values, mixed = (
            buffers.at(each) for each in (attend.query, attend.key, attend.value, attend.target)
        )
        largest = self._buffers.room(heads)

        def call(part: slice) -> None:
            found = Heads(query[part], keys[part], values[part], size, buffers.turn, *attend.turned)
            places = buffers.tables[part], buffers.positions[part]
            attend_rows(mixed[part], largest[part], found, attend.weighing, attend.pages, *places, parts)

        self._launch("attend", attend.target, call, Target(mixed, largest=largest))

    def _normalise(self, norm: Norm) -> None:
        """Of vectors that no product takes: heads, or rows that are to be added."""
        source, target = self._buffers.at(norm.source), self._buffers.at(norm.target)

        def call(part: slice) -> None:
            normalise_vectors_(target[part], source[part], norm.norm)

        self._launch("norm", norm.target, call)

    def _activate(self, act: Activate) -> None:
        y, up = self._buffers.at(act.target), self._buffers.at(act.source)
        gate, largest = (
            None if act.gate is None else self._buffers.at(act.gate),
            self._buffers.room(cdiv(act.target.width, VALUES)),
        )

        def call(part: slice) -> None:
            activate_(y[part], largest[part], up[part], None if gate is None else gate[part], act.activation)

        self._launch("activate", act.target, call, Target(y, largest=largest))

    def _add(self, add: Add) -> None:
        source, target = self._buffers.at(add.source), self._buffers.at(add.target)

        def call(part: slice) -> None:
            target[part].add_(source[part])

        self._launch("add", add.target, call)

    def _shift(self, shift: Shift) -> None:
        target = self._buffers.at(shift.target)

        def call(part: slice) -> None:
            target[part].add_(shift.vector)

        self._launch("shift", shift.target, call)

    def _launch(
        self,
        name: str,
        place: View,
        call: Callable[[slice], None],
        target: Target | None = None,
        after: Instruction | None = None,
        count: int = 1,
    ) -> None:
        """Whoever writes a place makes what was known of it old, and may tell what is now."""
        self.launches.append(Launch(name, count, call, self._among))
        self._measured = {each: found for each, found in self._measured.items() if found[0] != place.place}
        for known in (self._source, self._largest, self._normed):
            known.pop(place.place, None)
        if target and target.squares is not None and target.largest is not None and isinstance(after, Norm):
            told = Rows(target.y, target.largest, after.norm, target.squares, told=True)
            self._normed[place.place] = after.norm, told
        elif target and target.largest is not None:
            self._largest[place.place] = target.largest

    def _rows(self, view: View) -> Rows:
        """A place as a product takes it, measured where its writer did not tell."""
        if view.place in self._measured:
            return self._measured[view.place][1]
        rows = self._unmeasured(view)
        if self._tells(view):
            return rows
        self._measured[view.place] = self._source.get(view.place, (view, None))[0].place, rows
        self.launches.append(Launch("measure", 1, lambda part: measure_(rows.some(part)), self._among))
        return rows

    def _tells(self, view: View) -> bool:
        """Whether the writer of a place said what a product needs to know of it."""
        source, norm = self._source.get(view.place, (view, None))
        if norm is None:
            return source.place in self._largest
        return source.place in self._normed and self._normed[source.place][0] is norm

    def _unmeasured(self, view: View) -> Rows:
        """A place as a product takes it, with what its writer told, or with room for what is measured."""
        source, norm = self._source.get(view.place, (view, None))
        x = self._buffers.at(source)
        if norm is not None and self._tells(view):
            return self._normed[source.place][1]
        if norm is None and self._tells(view):
            return Rows(x, self._largest[source.place])
        largest, stats = (x.new_empty(len(x), columns) for columns in (1, 2))
        return Rows(x, largest, norm, stats if norm else None)


def _is_told(add: Add, norm: Norm) -> bool:
    """Whether it is an RMS norm of what is added up."""
    return norm.source == add.target and norm.norm.kind == RMS


def _is_of(act: Activate, linear: Linear) -> bool:
    """Whether it takes what one linear gives: all of it, or a gate and behind it as much that it multiplies."""
    target = linear.target
    if act.gate is None:
        return act.source == target
    half, whole = target.width // 2, GATED_OUTPUTS if isinstance(linear.weights, GradedWeights) else BLOCK
    return (act.gate, act.source) == (target.columns(0, half), target.columns(half, half)) and half % whole == 0
