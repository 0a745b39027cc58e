"""A pass of a model as a list of instructions, run by one call into cpp/program.cpp.

kernels/instructions.py says what instructions do and on what.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .digit_linear import DigitWeights
from .expert_weights import ExpertWeights
from .graded_linear import GradedWeights
from .instructions import AMONG, Among, Choice, Counted, Points, View
from .native import Native
from .native_expert_ffn import CODES, WEIGHTS, RoutedLayer, layer_of
from .paged_attention import KVPages, PagedTokens
from .plane_ffn import PlaneWeights
from .planes.native import PLANE_ISAS, plane_isa
from .weighing import PLAIN, Weighing

KINDS = (  # the order of `enum InstructionKind` in cpp/program.h
    "norm", "digit", "graded", "dense", "rotate", "attend", "activate", "add", "gather", "among", "planes", "experts",
    "choose", "take", "give", "look_up", "keep", "scale", "shift",
)  # fmt: skip
WEIGHT_KINDS = {torch.bfloat16: 1, torch.float32: 2}  # of cpp/linear.cpp
_NO_MEMORY, _UNSOUND = 1, 2


class _View(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("place", "stride", "offset")]


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int64),
        *((name, _View) for name in ("source", "second", "third", "target")),
        ("sizes", ctypes.c_int64 * 7),
        ("numbers", ctypes.c_double * 2),
        ("operands", ctypes.c_void_p * 4),
    ]


class _Places(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tables", "row", "positions")),
        *((name, ctypes.c_int64) for name in ("table_stride", "sequences", "width")),
    ]


class _Run(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "scored", "full")),
        *((name, ctypes.c_void_p) for name in ("places", "thresholds", "cosine", "sine")),
        ("turn_stride", ctypes.c_int64),
        *((name, _Places) for name in ("own", "source")),
        *((name, ctypes.c_void_p) for name in ("seen", "distances")),
        *((name, ctypes.c_int64) for name in ("distance_stride", "distance_origin")),
        *((name, ctypes.c_void_p) for name in ("kept", "kept_thresholds", "counts", "bits", "neurons")),
        *((name, ctypes.c_void_p) for name in ("tiers", "parts", "factors", "asked", "units", "taken")),
    ]


INSTRUCTION_BYTES, RUN_BYTES = ctypes.sizeof(_Instruction), ctypes.sizeof(_Run)


@dataclass(frozen=True, slots=True)
class Asked:
    """What rows ask. thresholds: fp32 [rows], of graded linears. The first `full` rows are at the full tier; the others
    stand at `tiers`, int64 [rows], or `parts` of the way to the next ones, fp32 [rows]. factors: of their thresholds,
    fp32 [rows that are not full], where these choose together.
    """

    thresholds: Tensor
    full: int
    tiers: Tensor | None = None
    parts: Tensor | None = None
    factors: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Beside:
    """What rows see beside their own past. sources: where what they go on from lies, or where they are to be kept as a
    source. seen: int32 [rows], the last position of its own sequence that each sees, where that is not its own.
    distances: fp32 [heads, columns], added to scores of keys by how far ahead of the query they stand, `origin` the
    column of the query's own position.
    """

    sources: PagedTokens | None = None
    seen: Tensor | None = None
    distances: Tensor | None = None
    origin: int = 0


class Program:
    """Instructions over places. The first place is what goes in, the last one that is written what comes out."""

    def __init__(self, library: Native, width: int) -> None:
        self._library, self._isa = library, PLANE_ISAS.index(plane_isa(library))
        self._instructions: list[_Instruction] = []
        self._kept: list[object] = []  # what instructions point to
        self._widths: list[int] = []
        self._memory = torch.empty(0)
        self._listed: Any = None  # the same, side by side
        self.num_prices = self.num_units = 0
        self.input = self.output = self.place(width)

    def __len__(self) -> int:
        return len(self._instructions)

    def place(self, width: int) -> View:
        """A new table of so many columns."""
        self._widths.append(width)
        return View(len(self._widths) - 1, width, width)

    def widened(self, view: View, width: int) -> View:
        """So many columns of the table of a view, which has room for them from now on; what it held is lost."""
        self._widths[view.place] = max(self._widths[view.place], width)
        return View(view.place, width, width)

    def norm(self, source: View, target: View, weight: Tensor, bias: Tensor | None, eps: float, layer: bool) -> None:
        """RMS norm, or layer norm, of every vector that is as wide as the weight: statistics in fp64."""
        operands, width = [_fp32(weight), None if bias is None else _fp32(bias)], len(weight)
        sizes = (width, layer, source.width // width)
        self._add("norm", source, target, sizes=sizes, numbers=(eps,), operands=operands)

    def digit_linear(self, source: View, target: View, weights: DigitWeights) -> None:
        self._kept.append(weights)
        self._add("digit", source, target, operands=[weights.layer])

    def graded_linear(self, source: View, target: View, weights: GradedWeights, price: int, neurons: bool) -> None:
        """price: the row of `Counted.bits` that it counts in; neurons: whether its inputs are neurons."""
        self._kept.append(weights)
        self.num_prices = max(self.num_prices, price + 1)
        self._add("graded", source, target, sizes=(price, neurons), operands=[weights.layer])

    def dense_linear(self, source: View, target: View, weight: Tensor, bias: Tensor | None) -> None:
        """weight: bf16 or fp32 [outputs, inputs], contiguous."""
        outputs, inputs = weight.shape
        operands = [weight.detach(), None if bias is None else _fp32(bias)]
        self._add("dense", source, target, sizes=(inputs, outputs, WEIGHT_KINDS[weight.dtype]), operands=operands)

    def among(self, rows: Among) -> None:
        """From here on only these rows. What stands between this and `among("all")` are instructions of one FFN."""
        self._add("among", self.output, self.output, sizes=(AMONG.index(rows),))

    def plane_ffn(
        self, source: View, target: View, weights: PlaneWeights, bits: int, tile: int, activation: str, points: Points
    ) -> None:
        """Weights have to be packed, which tiles of more than one neuron cannot be."""
        if weights.packed is None:
            raise TypeError("an instruction takes packed planes")
        self._kept.append(weights.packed)
        self._choose("planes", source, target, weights.packed.layer, activation, points)

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
        """Of weights and of a router that the C++ takes."""
        vectors, (first, second) = {name: _fp32(vector) for name, vector in weights.vectors.items()}, router
        ffn = layer_of(weights, vectors, tile, activation)
        layer = RoutedLayer(ffn, first.data_ptr(), second.data_ptr(), len(first), WEIGHTS[first.dtype])
        self._kept += weights, vectors, router
        self._choose("experts", source, target, layer, activation, points)

    def _choose(
        self, kind: str, source: View, target: View, layer: ctypes.Structure, activation: str, points: Points
    ) -> None:
        self.num_units = max(self.num_units, points.units + 1)
        operands = [layer, _fp32(points.thresholds), _fp32(points.constants)]
        self._add(kind, source, target, sizes=(points.units, CODES.index(activation)), operands=operands)

    def choose_experts(self, source: View, target: View, sum: View, choice: Choice) -> None:
        """What each expert of a mixture counts for each row, of the choice's scores of them all; clears the sum."""
        self.num_units = max(self.num_units, choice.units + 1)
        counts = None if choice.counts is None else _fp32(choice.counts)
        sizes = (source.width, choice.active, choice.normalised, choice.neurons, choice.units)
        self._add("choose", source, target, sum, sizes=sizes, numbers=(choice.rounding,), operands=[counts])

    def take(self, source: View, target: View, parts: View, expert: int) -> None:
        """From here on only the rows that an expert counts for, gathered; parts: the target of `choose_experts`."""
        self._add("take", source, target, parts, sizes=(source.width, expert))

    def give(self, source: View, target: View, parts: View, expert: int) -> None:
        """Adds what an expert made of the rows that it took, times its part, to their sum; all rows again."""
        self._add("give", source, target, parts, sizes=(source.width, expert))

    def rotate(self, target: View, size: int, turned: int, table: int = 0) -> None:
        """Turns the first `turned` of heads of so many values, in place; table: the column where its turns begin."""
        self._add("rotate", target, target, sizes=(target.width // size, size, turned, table))

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
        """Stores keys and values, then attends; size: of a head; distances: whether `Beside.distances` are added."""
        numbers = (weighing.scale_of(size), weighing.soft_cap)
        sizes = (query.width // size, *_sizes(pages, size), weighing.window, len(pages.keys), distances)
        self._add("attend", query, target, key, value, sizes=sizes, numbers=numbers, operands=_operands(pages))

    def look_up(self, query: View, target: View, pages: KVPages, size: int, weighing: Weighing = PLAIN) -> None:
        """Attends to what `Beside.sources` has in the pages."""
        numbers = (weighing.scale_of(size), weighing.soft_cap)
        sizes = (query.width // size, *_sizes(pages, size), weighing.window, len(pages.keys), False)
        self._add("look_up", query, target, sizes=sizes, numbers=numbers, operands=_operands(pages))

    def keep(self, key: View, value: View, pages: KVPages, size: int) -> None:
        """Stores keys and values where `Beside.sources` says."""
        sizes = (key.width // size, *_sizes(pages, size), 0, len(pages.keys), False)
        self._add("keep", key, key, key, value, sizes=sizes, operands=_operands(pages))

    def scale(self, source: View, target: View, factor: float) -> None:
        self._add("scale", source, target, sizes=(source.width,), numbers=(factor,))

    def shift(self, target: View, vector: Tensor) -> None:
        self._add("shift", target, target, sizes=(target.width,), operands=[_fp32(vector)])

    def activate(self, source: View, target: View, activation: str, gate: View | None = None) -> None:
        """act(source), or act(gate) * source."""
        sizes = (source.width, CODES.index(activation), gate is not None)
        self._add("activate", source, target, gate, sizes=sizes)

    def add(self, source: View, target: View) -> None:
        self._add("add", source, target, sizes=(source.width,))

    def gather(self, source: View, target: View) -> None:
        """From here on only the rows that are scored."""
        self._add("gather", source, target, sizes=(source.width,))

    def _add(
        self,
        kind: str,
        source: View,
        target: View,
        second: View | None = None,
        third: View | None = None,
        sizes: Sequence[int] = (),
        numbers: Sequence[float] = (),
        operands: Sequence[Any] = (),
    ) -> None:
        self._kept += operands
        views = [_view(each or source) for each in (source, second, third, target)]
        addresses = [_address(each) for each in operands]
        filled = (ctypes.c_int64 * 7)(*sizes), (ctypes.c_double * 2)(*numbers), (ctypes.c_void_p * 4)(*addresses)
        self._instructions.append(_Instruction(KINDS.index(kind), *views, *filled))
        self.output = target

    def run(
        self,
        x: Tensor,
        tokens: PagedTokens,
        turn: tuple[Tensor, Tensor] | None,
        asked: Asked,
        kept: Tensor,
        threads: int,
        beside: Beside = Beside(),
    ) -> tuple[Tensor, Counted]:
        """x: fp32 [rows, width], which is lost; turn: cosines and sines fp32 [positions, values of all tables];
        kept: int64 [scored], rows -> fp32 [scored, outputs].

        Raises IndexError where tables, rows or positions point outside, MemoryError where there is none.
        """
        rows, scored = len(x), len(kept)
        found = x.new_empty(scored, self.output.width)
        places = self._places(x, found)
        sizes = (self.num_prices, rows), (rows,), (self.num_units, 2, rows)
        counted = Counted(*(torch.zeros(size, dtype=torch.int64) for size in sizes))
        work = torch.empty(3, rows, dtype=torch.int64), torch.empty(scored), torch.empty(rows, 2)
        cosine, sine = turn or (None, None)
        own, source = _Laid(tokens), _Laid(beside.sources)
        distances = beside.distances
        run = _Run(
            rows, scored, asked.full, ctypes.addressof(places),
            *(_address(each) for each in (asked.thresholds, cosine, sine)),
            0 if cosine is None else cosine.stride(0), own.places, source.places,
            _address(beside.seen), _address(distances), 0 if distances is None else distances.stride(0), beside.origin,
            *(_address(each) for each in (kept, work[1], work[0], counted.bits, counted.neurons)),
            *(_address(each) for each in (asked.tiers, asked.parts, asked.factors, work[2], counted.units, work[0][2])),
        )  # fmt: skip
        self._call(run, threads)
        return found, counted

    def _call(self, run: _Run, threads: int) -> None:
        if self._listed is None:
            self._listed = (_Instruction * len(self))(*self._instructions)
        failed = self._library.library.moesaic_program(
            self._listed, len(self), ctypes.byref(run), threads, self._library.isa, self._isa
        )
        if failed == _UNSOUND:
            raise IndexError("tables, rows or positions of the tokens point outside the pool, or positions do not rise")
        if failed == _NO_MEMORY:
            raise MemoryError(f"no memory for the sums of {run.rows} tokens")

    def _places(self, x: Tensor, found: Tensor) -> Any:
        """The address of each place: of what goes in and what comes out, and between them of memory that is kept."""
        rows, between = len(x), self._widths[1:-1]
        if self._memory.numel() < rows * sum(between):
            self._memory = x.new_empty(rows * sum(between))
        at, addresses = self._memory.data_ptr(), [x.data_ptr()]
        for width in between:
            addresses.append(at)
            at += rows * width * x.element_size()
        return (ctypes.c_void_p * len(self._widths))(*addresses, found.data_ptr())


class _Laid:
    """Tables, rows and positions as the C++ reads them, valid as long as this object lives."""

    def __init__(self, tokens: PagedTokens | None) -> None:
        self._held = [] if tokens is None else [tokens.tables, tokens.row, tokens.positions]
        self._held = [each.contiguous() for each in self._held]
        self.places = _Places()
        if self._held:
            tables = self._held[0]
            self.places = _Places(*map(_address, self._held), tables.stride(0), *tables.shape)


def _sizes(pages: KVPages, size: int) -> tuple[int, int, int]:
    """Heads of keys, values of a head, and those that are stored of it."""
    return pages.keys.shape[1], size, pages.keys.shape[-1]


def _operands(pages: KVPages) -> list[Tensor | None]:
    return [pages.keys, pages.values, pages.key_scale, pages.value_scale]


def _view(view: View) -> _View:
    return _View(view.place, view.stride, view.offset)


def _address(operand: Any) -> int | None:
    if operand is None:
        return None
    return operand.data_ptr() if isinstance(operand, Tensor) else ctypes.addressof(operand)


def _fp32(vector: Tensor) -> Tensor:
    return vector.detach().float().contiguous()
