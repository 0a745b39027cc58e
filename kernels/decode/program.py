"""A decode step on a GPU as launches: instructions as cpp/program.cpp runs them, joined where one launch does several.

    norm and linear                     the product takes its inputs normalised (kernels/rows.py)
    linear and activation, or addition  the product finishes with it
    rotation and attention              one launch, which stores keys and values too (attend.py)
    gather                              nothing: each row of a decode step is scored

Buffers are made once, for the most rows; a step of fewer uses the first of each. Nothing in a step waits for the device
or depends on values, so that a CUDA graph can hold it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..digit_linear import DigitWeights
from ..digit_triton import BLOCK, MOST_TOKENS, Scratch, digit_rows, rows_of, scratch_sizes
from ..graded.finish import GATED_OUTPUTS, Sums, finish_, parts_of
from ..graded.layout import plane_starts
from ..graded.lists import listed
from ..graded.multiply import partial_sums
from ..graded_linear import GradedWeights
from ..instructions import Counted, View
from ..jit import cdiv
from ..paged_attention import BLOCK_TOKENS, KVPages
from ..rows import LAYER, RMS, RowNorm, Rows, Target, measure_
from ..weighing import PLAIN, Weighing
from .attend import Heads, Parts, attend_rows
from .elementwise import BLOCK as VALUES
from .elementwise import activate_, normalise_, normalise_vectors_


@dataclass(frozen=True)
class Launch:
    """count: of kernels; call: does it for the first rows of all buffers."""

    name: str
    count: int
    call: Callable[[int], None]


@dataclass(frozen=True)
class _Norm:
    source: View
    target: View
    norm: RowNorm


@dataclass(frozen=True)
class _Linear:
    source: View
    target: View
    weights: DigitWeights | GradedWeights | tuple[Tensor, Tensor | None]
    price: int = -1
    neurons: bool = False


@dataclass(frozen=True)
class _Attend:
    query: View
    key: View
    value: View
    target: View
    pages: KVPages
    size: int
    weighing: Weighing
    turned: tuple[int, int]  # how many values of a head, and the column of the tables where their turns begin


@dataclass(frozen=True)
class _Activate:
    source: View
    target: View
    activation: str
    gate: View | None


@dataclass(frozen=True)
class _Add:
    source: View
    target: View


@dataclass(frozen=True)
class _Gather:
    source: View
    target: View


Instruction = _Norm | _Linear | _Attend | _Activate | _Add | _Gather


class DecodeProgram:
    """Takes instructions (kernels/instructions.py), then `join`; `run` makes the step of some rows, one token each.

    tables: int32 [rows, blocks], positions: int32 [rows], thresholds: fp32 [rows], and `x`: fp32 [rows, width] are what
    rows are, to be filled before a run. longest: positions that a row may have; turn: cosines and sines fp32
    [longest, size], or None.
    """

    def __init__(
        self,
        width: int,
        longest: int,
        device: torch.device,
        turn: tuple[Tensor, Tensor] | None,
        rows: int = MOST_TOKENS,
    ) -> None:
        self.rows, self.longest, self.device, self.turn = rows, longest, device, turn
        self.tables = torch.zeros(rows, cdiv(longest, BLOCK_TOKENS), dtype=torch.int32, device=device)
        self.positions = torch.zeros(rows, dtype=torch.int32, device=device)
        self.thresholds = torch.zeros(rows, device=device)
        self._instructions: list[Instruction] = []
        self._turned: dict[int, tuple[int, int]] = {}
        self._places: list[Tensor] = []
        self._counts: list[tuple[_Linear, Tensor]] = []
        self.launches: Sequence[Launch] = ()
        self.input = self.output = self.place(width)

    @property
    def x(self) -> Tensor:
        """What goes in."""
        return self._places[self.input.place]

    def place(self, width: int) -> View:
        self._places.append(torch.empty(self.rows, width, device=self.device))
        return View(len(self._places) - 1, width, width)

    def widened(self, view: View, width: int) -> View:
        if width > self._places[view.place].shape[1]:
            self._places[view.place] = torch.empty(self.rows, width, device=self.device)
        return View(view.place, width, width)

    def norm(self, source: View, target: View, weight: Tensor, bias: Tensor | None, eps: float, layer: bool) -> None:
        weight, offset = weight.detach(), None if bias is None else bias.detach()
        if layer and offset is None:
            offset = torch.zeros_like(weight)
        self._instructions.append(_Norm(source, target, RowNorm(LAYER if layer else RMS, weight, offset, eps)))

    def digit_linear(self, source: View, target: View, weights: DigitWeights) -> None:
        self._write(_Linear(source, target, weights))

    def graded_linear(self, source: View, target: View, weights: GradedWeights, price: int, neurons: bool) -> None:
        self._write(_Linear(source, target, weights, price, neurons))

    def dense_linear(self, source: View, target: View, weight: Tensor, bias: Tensor | None) -> None:
        offset = None if bias is None else bias.detach().to(weight.dtype)
        self._write(_Linear(source, target, (weight.detach(), offset)))

    def rotate(self, target: View, size: int, turned: int, table: int = 0) -> None:
        self._turned[target.place] = turned, table  # by whoever attends to it next

    def attend(
        self, query: View, key: View, value: View, target: View, pages: KVPages, size: int, weighing: Weighing = PLAIN
    ) -> None:
        self._turned.pop(key.place, None) if key.place != query.place else None
        self._write(_Attend(query, key, value, target, pages, size, weighing, self._turned.pop(query.place, (0, 0))))

    def activate(self, source: View, target: View, activation: str, gate: View | None = None) -> None:
        self._write(_Activate(source, target, activation, gate))

    def add(self, source: View, target: View) -> None:
        self._write(_Add(source, target))

    def gather(self, source: View, target: View) -> None:
        self._write(_Gather(source, target))

    def _write(self, instruction: _Linear | _Attend | _Activate | _Add | _Gather) -> None:
        self._instructions.append(instruction)
        self.output = instruction.target

    def join(self) -> None:
        """Makes launches of what was written, with their buffers."""
        self.launches = _Joined(self, self._instructions).launches

    @property
    def num_launches(self) -> int:
        """Of kernels, in a step."""
        return sum(each.count for each in self.launches)

    def run(self, rows: int) -> Tensor:
        """fp32 [rows, outputs] of the first rows, in a buffer of this program."""
        for launch in self.launches:
            launch.call(rows)
        return self.at(self.output)[:rows]

    def counted(self, rows: int, prices: int) -> Counted:
        """What graded linears read in the step before."""
        bits = torch.zeros(prices, rows, dtype=torch.int64, device=self.device)
        neurons = torch.zeros(rows, dtype=torch.int64, device=self.device)
        for linear, counts in self._counts:
            read, of_linear = counts[: 2 * rows].view(2, rows)
            bits[linear.price] += of_linear
            if linear.neurons:
                neurons += read
        return Counted(bits, neurons)

    def at(self, view: View) -> Tensor:
        """The columns of a view, of all rows."""
        return self._places[view.place][:, view.offset : view.offset + view.width]

    def counts_of(self, linear: _Linear) -> Tensor:
        """Where a graded linear counts: int64 [2 * rows]."""
        self._counts.append((linear, torch.zeros(2 * self.rows, dtype=torch.int64, device=self.device)))
        return self._counts[-1][1]


class _Joined:
    """The walk that turns instructions into launches."""

    def __init__(self, program: DecodeProgram, instructions: Sequence[Instruction]) -> None:
        self.launches: list[Launch] = []
        self._program = program
        self._source: dict[int, tuple[View, RowNorm | None]] = {}  # what a place stands for that nobody fills
        self._largest: dict[int, Tensor] = {}  # fp32 [rows, parts] of places whose writer told
        self._measured: dict[int, tuple[int, Rows]] = {}  # by the place that is taken, with the one that holds values
        self._normed: dict[int, tuple[RowNorm, Rows]] = {}  # of places whose writer told what a norm needs
        self._scratch = _scratch(instructions, program)
        self._shared: dict[tuple[int, int, int], Parts] = {}
        rest = list(instructions)
        while rest:
            del rest[: self._join(rest)]

    def _join(self, rest: Sequence[Instruction]) -> int:
        """Launches the first instruction, and those behind it that go with it; how many they were."""
        first = rest[0]
        if isinstance(first, _Norm) and (first.source == first.target or len(first.norm.weight) != first.source.width):
            self._normalise(first)
        elif isinstance(first, _Norm):
            self._source[first.target.place] = first.source, first.norm
            self._measured.pop(first.target.place, None)
        elif isinstance(first, _Gather):
            self._source[first.target.place] = self._source.get(first.source.place, (first.source, None))
        elif isinstance(first, _Attend):
            self._attend(first)
        elif isinstance(first, _Activate):
            self._activate(first)
        elif isinstance(first, _Add):
            self._add(first)
        else:
            return self._linear(first, *[*rest[1:3], None, None][:2])
        return 1

    def _linear(self, linear: _Linear, then: Instruction | None, after: Instruction | None) -> int:
        add = then if isinstance(then, _Add) and then.source == linear.target else None
        act = then if isinstance(then, _Activate) and _is_of(then, linear) else None
        if isinstance(linear.weights, GradedWeights):
            self._graded(linear, linear.weights, add or act, after)
        elif isinstance(linear.weights, DigitWeights):
            self._digits(linear, linear.weights, add or act, after)
        else:
            act = None
            self._dense(linear, *linear.weights, add)
        return 2 if add or act else 1

    def _digits(
        self, linear: _Linear, weights: DigitWeights, then: _Add | _Activate | None, after: Instruction | None
    ) -> None:
        rows, scratch, bias = self._rows(linear.source), self._scratch, weights.bias
        scale, offset = weights.scale.detach(), None if bias is None else bias.detach().contiguous()
        target = self._target(linear, then, after, cdiv((then or linear).target.width, BLOCK))

        def call(n: int) -> None:
            digit_rows(rows.first(n), weights.tiles, scale, offset, target.first(n), scratch)

        self._launch("digits", (then or linear).target, call, target, after)

    def _graded(
        self, linear: _Linear, weights: GradedWeights, then: _Add | _Activate | None, after: Instruction | None
    ) -> None:
        rows, thresholds, counts = self._rows(linear.source), self._program.thresholds, self._program.counts_of(linear)
        (scale, worth, bias), packed = weights.vectors, weights.packed
        gated = isinstance(then, _Activate) and then.gate is not None
        target = self._target(linear, then, after, parts_of(2 * plane_starts(packed.outputs, packed.planes)[1], gated))

        def call(n: int) -> None:
            lists = listed(rows.first(n), worth, thresholds[:n])
            sums = Sums(partial_sums(packed, lists), lists.facts, lists.step, scale, bias)
            finish_(target.first(n), counts[: 2 * n].view(2, n), sums)

        self._launch("graded", (then or linear).target, call, target, after, count=3)

    def _target(self, linear: _Linear, then: _Add | _Activate | None, after: Instruction | None, parts: int) -> Target:
        """Where a product goes, with what follows it, and in so many parts what whoever comes next needs to know."""
        target = Target(self._program.at((then or linear).target), isinstance(then, _Add))
        if isinstance(then, _Activate):
            gated = then.gate is not None
            return replace(target, activation=then.activation, gated=gated, largest=self._room(parts))
        if isinstance(then, _Add) and isinstance(after, _Norm) and _is_told(then, after):
            return replace(target, largest=self._room(parts), squares=self._room(parts), weights=after.norm.weight)
        return target

    def _dense(self, linear: _Linear, weight: Tensor, bias: Tensor | None, add: _Add | None) -> None:
        view, norm = self._source.get(linear.source.place, (linear.source, None))
        x, target = self._program.at(view), self._program.at((add or linear).target)
        rows, like = self._rows(linear.source) if norm else None, weight.new_empty(len(x), x.shape[1])

        def call(n: int) -> None:
            if rows is not None:
                normalise_(like[:n], rows.first(n))
            else:
                like[:n].copy_(x[:n])
            y = functional.linear(like[:n], weight, bias)
            target[:n].copy_(target[:n] + y if add else y)

        self._launch("dense", (add or linear).target, call, count=3 + bool(add))

    def _attend(self, attend: _Attend) -> None:
        program, size = self._program, attend.size
        heads, kv_heads = attend.query.width // size, attend.key.width // size
        key = heads, kv_heads, size
        if key not in self._shared:
            self._shared[key] = Parts.of(program.rows, heads, kv_heads, size, program.longest, program.device)
        parts = self._shared[key]
        query, keys, values, mixed = (
            program.at(each) for each in (attend.query, attend.key, attend.value, attend.target)
        )
        largest = self._room(heads)

        def call(n: int) -> None:
            found = Heads(query[:n], keys[:n], values[:n], size, program.turn, *attend.turned)
            places = program.tables, program.positions
            attend_rows(mixed[:n], largest[:n], found, attend.weighing, attend.pages, *places, parts)

        self._launch("attend", attend.target, call, Target(mixed, largest=largest))

    def _normalise(self, norm: _Norm) -> None:
        """Of vectors that no product takes: heads, or rows that are to be added."""
        source, target = self._program.at(norm.source), self._program.at(norm.target)

        def call(n: int) -> None:
            normalise_vectors_(target[:n], source[:n], norm.norm)

        self._launch("norm", norm.target, call)

    def _activate(self, act: _Activate) -> None:
        y, up = self._program.at(act.target), self._program.at(act.source)
        gate, largest = (
            None if act.gate is None else self._program.at(act.gate),
            self._room(cdiv(act.target.width, VALUES)),
        )

        def call(n: int) -> None:
            activate_(y[:n], largest[:n], up[:n], None if gate is None else gate[:n], act.activation)

        self._launch("activate", act.target, call, Target(y, largest=largest))

    def _add(self, add: _Add) -> None:
        source, target = self._program.at(add.source), self._program.at(add.target)

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
        if target and target.squares is not None and target.largest is not None and isinstance(after, _Norm):
            told = Rows(target.y, target.largest, after.norm, target.squares, told=True)
            self._normed[place.place] = after.norm, told
        elif target and target.largest is not None:
            self._largest[place.place] = target.largest

    def _rows(self, view: View) -> Rows:
        """A place as a product takes it, measured where its writer did not tell."""
        if view.place in self._measured:
            return self._measured[view.place][1]
        source, norm = self._source.get(view.place, (view, None))
        x = self._program.at(source)
        if norm is None and source.place in self._largest:
            return Rows(x, self._largest[source.place])
        if source.place in self._normed and self._normed[source.place][0] is norm:
            return self._normed[source.place][1]
        largest, stats = (x.new_empty(len(x), columns) for columns in (1, 2))
        rows = Rows(x, largest, norm, stats if norm else None)
        self._measured[view.place] = source.place, rows
        self.launches.append(Launch("measure", 1, lambda n: measure_(rows.first(n))))
        return rows

    def _room(self, parts: int) -> Tensor:
        return torch.empty(self._program.rows, parts, device=self._program.device)


def _is_told(add: _Add, norm: _Norm) -> bool:
    """Whether it is an RMS norm of what is added up."""
    return norm.source == add.target and norm.norm.kind == RMS


def _is_of(act: _Activate, linear: _Linear) -> bool:
    """Whether it takes what one linear gives: all of it, or a gate and behind it as much that it multiplies."""
    target = linear.target
    if act.gate is None:
        return act.source == target
    half, whole = target.width // 2, GATED_OUTPUTS if isinstance(linear.weights, GradedWeights) else BLOCK
    return (act.gate, act.source) == (target.columns(0, half), target.columns(half, half)) and half % whole == 0


def _scratch(instructions: Sequence[Instruction], program: DecodeProgram) -> Scratch:
    """Room for the products of any of these linears, for any number of rows."""
    sizes = [(1, 1, 1)]
    for each in instructions:
        if isinstance(each, _Linear) and isinstance(each.weights, DigitWeights):
            tiles = each.weights.tiles
            counts = {rows_of(n) for n in range(1, program.rows + 1)}
            sizes += [scratch_sizes(n, tiles, gated) for n in counts for gated in (False, True)]
    return Scratch.of(program.device, *(max(column) for column in zip(*sizes, strict=True)))
