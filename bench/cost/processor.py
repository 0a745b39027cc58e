"""Instructions of CPU loops for each weight, written down part by part, and as compiled.

A turn of a loop multiplies `weights`, once for each of `rows` of activations. What a turn must do is written in its
parts, and what the compiler adds in `moves`: masks that an instruction overwrites, sums that it keeps on the stack. In
a turn of the graded kernel of P planes, over 4 inputs and 128 outputs (AVX-512) or 64 (AVX2):

    loads       4 P vectors; as many again are operands of the interleaving with AVX2
    interleave  8 P: bytes of four rows, so that a dot product of four bytes is one of four inputs
    nibbles     planes of 2 bits are turned and joined, halves of bytes moved up and masked
    dots        2 digits for each of 8 vectors of sums; with AVX2 each takes 3 instructions, and 8 bits are two products
    lists       4 rows and 4 rows ahead, 4 P prefetches, digits of the 4 inputs, the loop

Rows that run together interleave 4 inputs over 128 outputs once, `stores` them, and multiply what is stored as int8
weights are multiplied, after `masks` where they read an input differently. With AVX2 weights are widened to 16 bits,
and both digits are one number.

`tests/test_cost.py` holds each to the code that is compiled: loops of the library, and of rivals.cpp for what the
library has no need of.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .compiled import loops, our_library, rivals_library

WRITTEN_FOR = "12."  # GCC's, whose moves were counted
WIDE, NARROW = "avx512_vnni", "avx2"


class Turn:
    """What a turn of a loop does: instructions by part, which multiply `weights` by each of its rows."""

    weights: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def per_weight(self) -> float:
        return self.total / self.weights


@dataclass(frozen=True)
class Loop(Turn):
    """parts: instructions of a turn. holds: opcodes, and how often they stand in the loop, which tell it from others of
    the function. halves: loops that one turn takes; each has its part of the sums. skips: loops before them, over
    smaller blocks.
    """

    name: str
    isa: str
    function: str
    weights: int
    parts: dict[str, int]
    holds: dict[str, int]
    rows: int = 1
    halves: int = 1
    skips: int = 0
    ours: bool = True

    def compiled(self) -> int:
        """Instructions of a turn in the library; 0 where the loop is not there. Raises what building one raises."""
        library: Path | None = our_library() if self.ours else rivals_library()
        if library is None:
            return 0
        return sum(len(each) for each in self._matching(library)[self.skips :][: self.halves])

    def _matching(self, library: Path) -> list[list[str]]:
        wide = self.isa == WIDE
        found = [each for each in loops(library, self.function) if not wide or any("%zmm" in line for line in each)]
        return [each for each in found if self._is_it(Counter(line.split()[0] for line in each))]

    def _is_it(self, opcodes: Counter[str]) -> bool:
        return all(opcodes[name] == count for name, count in self.holds.items())


def _parts(**parts: int) -> dict[str, int]:
    return parts


GRADED, FILL = "graded inputs", "graded inputs, laid out for several rows"
TILE, ALIKE = "graded inputs, a tile with masks", "graded inputs, a tile that rows read alike"
INT8, DIGITS, INT4 = "int8 as it is", "int8, two digits", "int4, groups of 32"
INPUTS, FILL_INPUTS = "inputs read whole or not", "inputs read whole or not, laid out for several rows"
NEURONS = "neurons by planes"
TIMED = "the loop that is timed"
HIGH, LOW, DOWN = "neurons: high planes", "neurons: low planes", "neurons: rows of down"

# by bits: the template's planes, and the parts of a turn
_WIDE_GRADED = {
    4: ("4, 0", _parts(loads=4, interleave=8, nibbles=12, dots=16, lists=22, moves=4)),
    6: ("4, 2", _parts(loads=8, interleave=16, nibbles=24, dots=16, lists=22, moves=16)),
    8: ("4, 22", _parts(loads=12, interleave=24, nibbles=28, dots=16, lists=26, moves=30)),
}
_NARROW_GRADED = {
    4: ("4, 0", _parts(loads=4, interleave=8, nibbles=12, dots=48, lists=32)),
    6: ("4, 2", _parts(loads=8, interleave=16, nibbles=40, dots=96, lists=32, moves=16)),
    8: ("4, 22", _parts(loads=12, interleave=24, nibbles=60, dots=96, lists=36, moves=20)),
}
_WIDE_FILLED = {
    4: ("4, 0", _parts(loads=4, interleave=8, nibbles=12, stores=8, lists=19)),
    6: ("4, 2", _parts(loads=8, interleave=16, nibbles=24, stores=8, lists=27, moves=8)),
    8: ("4, 22", _parts(loads=12, interleave=24, nibbles=28, stores=8, lists=36, moves=12)),
}
_NARROW_FILLED = {
    4: ("4, 0", _parts(loads=8, interleave=16, nibbles=24, stores=16, lists=32)),
    6: ("4, 2", _parts(loads=20, interleave=32, nibbles=104, stores=16, lists=34)),
    8: ("4, 22", _parts(loads=32, interleave=48, nibbles=144, stores=16, lists=40)),
}


def _graded() -> list[Loop]:
    wide = [
        Loop(f"{GRADED}, {bits} bits", WIDE, f"{WIDE}::add_pass<{code}>(", 512, parts, {"vpdpbusd": 16})
        for bits, (code, parts) in _WIDE_GRADED.items()
    ]
    filled = [
        Loop(
            f"{FILL}, {bits} bits", isa, f"{isa}::fill_tile<{code}>(", 512, parts, {"vpunpcklbw": bits - 2},
            halves=halves, skips=halves - 1,
        )
        for isa, some, halves in ((WIDE, _WIDE_FILLED, 1), (NARROW, _NARROW_FILLED, 2))
        for bits, (code, parts) in some.items()
    ]  # fmt: skip
    masked, alike = (
        _parts(loads=2, masks=12, dots=16, digits=8, loop=5),
        _parts(loads=2, dots=16, digits=8, loop=4),
    )
    less, less_alike = (
        _parts(widen=4, masks=10, dots=16, digits=2, loop=5),
        _parts(widen=4, dots=16, digits=2, loop=4),
    )
    lone = _parts(widen=8, dots=16, digits=1, loop=4)
    tiles = [
        Loop(TILE, WIDE, f"{WIDE}::multiply_group<4, true>(", 128, masked, {"vpdpbusd": 16}, rows=4),
        Loop(ALIKE, WIDE, f"{WIDE}::multiply_group<4, false>(", 128, alike, {"vpdpbusd": 16}, rows=4),
        Loop(TILE, NARROW, f"{NARROW}::multiply_group<2, true>(", 64, less, {"vpmaddwd": 8}, rows=2),
        Loop(ALIKE, NARROW, f"{NARROW}::multiply_group<2, false>(", 64, less_alike, {"vpmaddwd": 8}, rows=2),
        Loop(ALIKE, NARROW, f"{NARROW}::multiply_group<1, false>(", 128, lone, {"vpmaddwd": 8}),
    ]
    dots = {4: 8, 6: 16, 8: 16}
    narrow = [
        Loop(
            f"{GRADED}, {bits} bits", NARROW, f"{NARROW}::add_pass<{code}>(", 256, parts, {"vpmaddubsw": dots[bits]},
            halves=2,
        )
        for bits, (code, parts) in _NARROW_GRADED.items()
    ]  # fmt: skip
    return [*wide, *filled, *tiles, *narrow]


def _whole() -> list[Loop]:
    """int8 in fp32, and the rows of down of neurons by planes, in whole numbers of 16 bits."""
    one, four = (
        _parts(widen=8, convert=8, products=8, x=1, prefetch=2, loop=5),
        _parts(widen=4, convert=4, products=16, x=4, prefetch=1, loop=4),
    )
    narrow, two = (
        _parts(widen=8, convert=8, products=8, x=1, prefetch=1, loop=6),
        _parts(widen=4, convert=4, products=8, x=2, prefetch=1, loop=4),
    )
    down, less = (
        _parts(widen=8, pairs=8, products=8, numbers=12, sums=4, loop=3),
        _parts(widen=8, pairs=8, products=16, numbers=12, sums=2, loop=3),
    )
    return [
        Loop(INT8, WIDE, "avx512::tile<8, 1, signed char>(", 128, one, {"vcvtdq2ps": 8}),
        Loop(INT8, WIDE, "avx512::tile<4, 4, signed char>(", 64, four, {"vcvtdq2ps": 4}, rows=4),
        Loop(INT8, NARROW, "avx2::tile<8, 1, signed char>(", 64, narrow, {"vcvtdq2ps": 8}),
        Loop(INT8, NARROW, "avx2::tile<4, 2, signed char>(", 32, two, {"vcvtdq2ps": 4}, rows=2),
        Loop(DOWN, WIDE, f"{WIDE}::add_listed(", 256, down, {"vpdpwssd": 8}),
        Loop(DOWN, NARROW, f"{NARROW}::add_listed(", 128, less, {"vpmaddwd": 8}),
    ]


def _planes() -> list[Loop]:
    """What scores neurons, and refines them; with one digit."""
    high = _parts(masks=8, dots=8, digits=4, prefetch=4, loop=4, moves=16)
    low = _parts(loads=1, masks=4, dots=4, loop=3)
    return [
        Loop(HIGH, WIDE, f"{WIDE}::groups_of<2>(", 512, high, {"vpdpbusd": 8, "vpandd": 8, "prefetcht0": 4}),
        Loop(LOW, WIDE, f"{WIDE}::groups_of<2>(", 256, low, {"vpdpbusd": 4, "vpandd": 4, "prefetcht0": 0}),
        Loop(
            HIGH, NARROW, f"{NARROW}::groups_of<1>(", 256,
            _parts(loads=4, masks=12, dots=24, digits=4, prefetch=2, loop=4, moves=4),
            {"vpmaddubsw": 8, "prefetcht0": 2},
        ),
        Loop(
            LOW, NARROW, f"{NARROW}::groups_of<2>(", 256,
            _parts(loads=2, masks=14, dots=24, loop=3, moves=4), {"vpmaddubsw": 8, "prefetcht0": 0},
        ),
    ]  # fmt: skip


def _rivals() -> list[Loop]:
    """Of rivals.cpp."""
    scaled = _parts(dots=32, nibbles=24, digits=16, scales=14, zeros=4, loop=6)
    scaled_four = _parts(dots=128, nibbles=24, digits=64, scales=44, loop=6, moves=20)
    less = _parts(dots=94, loads=8, nibbles=24, digits=16, scales=14, loop=6, moves=30)
    less_four = _parts(dots=188, loads=8, nibbles=16, digits=64, scales=24, loop=4, moves=51)
    wide = [
        (TIMED, "timed<4>", 256, _parts(loads=4, dots=8, digits=2, loop=4), {"vpdpbusd": 8}, 1),
        (INT4, "int4<1>", 1024, scaled, {"vpdpbusd": 32}, 1),
        (INT4, "int4<4>", 1024, scaled_four, {"vpdpbusd": 128}, 4),
        (INPUTS, "inputs", 256, _parts(loads=4, interleave=8, dots=8, lists=22, moves=4), {"vpdpbusd": 8}, 1),
        (FILL_INPUTS, "fill_inputs", 256, _parts(loads=4, interleave=8, stores=4, lists=20), {"vpunpcklbw": 2}, 1),
    ]
    narrow = [
        (TIMED, "timed<2>", 64, _parts(loads=2, nibbles=6, dots=24, digits=2, loop=4), {"vpmaddubsw": 8}, 1),
        (INT4, "int4<1>", 512, less, {"vpmaddubsw": 32}, 1),
        (INT4, "int4<4>", 256, less_four, {"vpmaddubsw": 64}, 4),
        (INPUTS, "inputs", 128, _parts(loads=4, interleave=8, nibbles=12, dots=48, lists=22, moves=6),
         {"vpmaddubsw": 16}, 1),
        (FILL_INPUTS, "fill_inputs", 128, _parts(loads=4, interleave=8, stores=4, lists=20), {"vpunpcklbw": 2}, 1),
    ]  # fmt: skip
    return [
        Loop(name, isa, f"{isa}::{function}(", weights, parts, holds, rows, ours=False)
        for isa, some in ((WIDE, wide), (NARROW, narrow))
        for name, function, weights, parts, holds, rows in some
    ]


def _digits() -> list[Loop]:
    """int8 in two digits; with AVX2 weights are widened, and a row has one number of 16 bits."""
    one = _parts(loads=4, dots=8, digits=4, prefetch=4, loop=5)
    four = _parts(loads=2, dots=16, digits=8, loop=4, moves=2)
    narrow = _parts(widen=8, dots=16, digits=1, prefetch=2, loop=4)
    two = _parts(widen=4, dots=16, digits=2, prefetch=2, loop=4)
    return [
        Loop(DIGITS, WIDE, f"{WIDE}::tile<1>(", 256, one, {"vpdpbusd": 8}),
        Loop(DIGITS, WIDE, f"{WIDE}::tile<4>(", 128, four, {"vpdpbusd": 16}, rows=4),
        Loop(DIGITS, NARROW, f"{NARROW}::tile<1>(", 128, narrow, {"vpmaddwd": 8}),
        Loop(DIGITS, NARROW, f"{NARROW}::tile<2>(", 64, two, {"vpmaddwd": 8}, rows=2),
    ]


LOOPS = [*_graded(), *_whole(), *_digits(), *_planes(), *_rivals()]


def loop_of(name: str, isa: str, rows: int = 1) -> Loop:
    """The loop that was written down for so many rows of activations."""
    return next(each for each in LOOPS if (each.name, each.isa, each.rows) == (name, isa, rows))


def instructions_per_weight(isa: str | None) -> dict[str, float] | None:
    """Of the graded kernel for one row, by the bits that are read of a weight; None where nobody counted."""
    if isa not in (WIDE, NARROW):
        return None
    return {str(bits): loop_of(f"{GRADED}, {bits} bits", isa).per_weight for bits in _WIDE_GRADED}
