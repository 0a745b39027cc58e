"""Instructions of a decode step as launches, joined where one launch does several.

norm and linear                     the product takes its inputs normalised (kernels/rows.py)
linear and activation, or addition  the product finishes with it
rotation and attention              one launch, which stores keys and values too (attend.py)
gather                              nothing: each row of a decode step is scored
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional

from ..digit_linear import DigitWeights
from ..digit_triton import BLOCK, Scratch, digit_rows, rows_of, scratch_sizes
from ..graded.finish import GATED_OUTPUTS, Sums, finish_, parts_of
from ..graded.layout import plane_starts
from ..graded.lists import listed
from ..graded.multiply import partial_sums
from ..graded_linear import GradedWeights
from ..instructions import View
from ..jit import cdiv
from ..rows import RMS, RowNorm, Rows, Target, measure_
from .attend import Heads, Parts, attend_rows
from .buffers import Buffers
from .elementwise import BLOCK as VALUES
from .elementwise import activate_, normalise_, normalise_vectors_
from .written import Activate, Add, Attend, Gather, Instruction, Linear, Norm


@dataclass(frozen=True)
class Launch:
    """count: of kernels; call: does it for the first rows of all buffers."""

    name: str
    count: int
    call: Callable[[int], None]


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
        self._scratch = _scratch(instructions, buffers)
        self._shared: dict[tuple[int, int, int], Parts] = {}
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
        else:
            return self._linear(first, *[*rest[1:3], None, None][:2])
        return 1

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

        def call(n: int) -> None:
            digit_rows(rows.first(n), weights.tiles, scale, offset, target.first(n), scratch)

        self._launch("digits", (then or linear).target, call, target, after)

    def _graded(
        self, linear: Linear, weights: GradedWeights, then: Add | Activate | None, after: Instruction | None
    ) -> None:
        rows, thresholds, counts = self._rows(linear.source), self._buffers.thresholds, self._buffers.counts_of(linear)
        (scale, worth, bias), packed = weights.vectors, weights.packed
        gated = isinstance(then, Activate) and then.gate is not None
        target = self._target(linear, then, after, parts_of(2 * plane_starts(packed.outputs, packed.planes)[1], gated))

        def call(n: int) -> None:
            lists = listed(rows.first(n), worth, thresholds[:n])
            sums = Sums(partial_sums(packed, lists), lists.facts, lists.step, scale, bias)
            finish_(target.first(n), counts[: 2 * n].view(2, n), sums)

        self._launch("graded", (then or linear).target, call, target, after, count=3)

    def _target(self, linear: Linear, then: Add | Activate | None, after: Instruction | None, parts: int) -> Target:
        """Where a product goes, with what follows it, and in so many parts what whoever comes next needs to know."""
        target = Target(self._buffers.at((then or linear).target), isinstance(then, Add))
        if isinstance(then, Activate):
            gated = then.gate is not None
            return replace(target, activation=then.activation, gated=gated, largest=self._buffers.room(parts))
        if isinstance(then, Add) and isinstance(after, Norm) and _is_told(then, after) and not _is_twofold(linear):
            return replace(
                target, largest=self._buffers.room(parts), squares=self._buffers.room(parts), weights=after.norm.weight
            )
        return target

    def _dense(self, linear: Linear, weight: Tensor, bias: Tensor | None, add: Add | None) -> None:
        view, norm = self._source.get(linear.source.place, (linear.source, None))
        x, target = self._buffers.at(view), self._buffers.at((add or linear).target)
        rows, like = self._rows(linear.source) if norm else None, weight.new_empty(len(x), x.shape[1])

        def call(n: int) -> None:
            if rows is not None:
                normalise_(like[:n], rows.first(n))
            else:
                like[:n].copy_(x[:n])
            y = functional.linear(like[:n], weight, bias)
            target[:n].copy_(target[:n] + y if add else y)

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

        def call(n: int) -> None:
            found = Heads(query[:n], keys[:n], values[:n], size, buffers.turn, *attend.turned)
            places = buffers.tables, buffers.positions
            attend_rows(mixed[:n], largest[:n], found, attend.weighing, attend.pages, *places, parts)

        self._launch("attend", attend.target, call, Target(mixed, largest=largest))

    def _normalise(self, norm: Norm) -> None:
        """Of vectors that no product takes: heads, or rows that are to be added."""
        source, target = self._buffers.at(norm.source), self._buffers.at(norm.target)

        def call(n: int) -> None:
            normalise_vectors_(target[:n], source[:n], norm.norm)

        self._launch("norm", norm.target, call)

    def _activate(self, act: Activate) -> None:
        y, up = self._buffers.at(act.target), self._buffers.at(act.source)
        gate, largest = (
            None if act.gate is None else self._buffers.at(act.gate),
            self._buffers.room(cdiv(act.target.width, VALUES)),
        )

        def call(n: int) -> None:
            activate_(y[:n], largest[:n], up[:n], None if gate is None else gate[:n], act.activation)

        self._launch("activate", act.target, call, Target(y, largest=largest))

    def _add(self, add: Add) -> None:
        source, target = self._buffers.at(add.source), self._buffers.at(add.target)

        def call(n: int) -> None:
            target[:n].add_(source[:n])

        self._launch("add", add.target, call)

    def _launch(
        self,
        name: str,
        place: View,
        call: Callable[[int], None],
        target: Target | None = None,
        after: Instruction | None = None,
        count: int = 1,
    ) -> None:
        """Whoever writes a place makes what was known of it old, and may tell what is now."""
        self.launches.append(Launch(name, count, call))
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
        source, norm = self._source.get(view.place, (view, None))
        x = self._buffers.at(source)
        if norm is None and source.place in self._largest:
            return Rows(x, self._largest[source.place])
        if source.place in self._normed and self._normed[source.place][0] is norm:
            return self._normed[source.place][1]
        largest, stats = (x.new_empty(len(x), columns) for columns in (1, 2))
        rows = Rows(x, largest, norm, stats if norm else None)
        self._measured[view.place] = source.place, rows
        self.launches.append(Launch("measure", 1, lambda n: measure_(rows.first(n))))
        return rows


def _is_told(add: Add, norm: Norm) -> bool:
    """Whether it is an RMS norm of what is added up."""
    return norm.source == add.target and norm.norm.kind == RMS


def _is_twofold(linear: Linear) -> bool:
    """Whether it is read whole or by planes, whose parts of a row add up in another order."""
    return isinstance(linear.weights, GradedWeights) and linear.weights.tiles is not None


def _is_of(act: Activate, linear: Linear) -> bool:
    """Whether it takes what one linear gives: all of it, or a gate and behind it as much that it multiplies."""
    target = linear.target
    if act.gate is None:
        return act.source == target
    half, whole = target.width // 2, GATED_OUTPUTS if isinstance(linear.weights, GradedWeights) else BLOCK
    return (act.gate, act.source) == (target.columns(0, half), target.columns(half, half)) and half % whole == 0


def _tiles_of(linear: Linear) -> DigitWeights | None:
    weights = linear.weights
    if isinstance(weights, GradedWeights):
        return weights.tiles
    return weights if isinstance(weights, DigitWeights) else None


def _scratch(instructions: Sequence[Instruction], buffers: Buffers) -> Scratch:
    """Room for the products of any of these linears, for any number of rows."""
    sizes = [(1, 1, 1)]
    for each in instructions:
        digits = _tiles_of(each) if isinstance(each, Linear) else None
        if digits is not None:
            tiles = digits.tiles
            counts = {rows_of(n) for n in range(1, buffers.rows + 1)}
            sizes += [scratch_sizes(n, tiles, gated) for n in counts for gated in (False, True)]
    return Scratch.of(buffers.device, *(max(column) for column in zip(*sizes, strict=True)))
