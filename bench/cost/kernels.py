"""Instructions of the shipped integer kernels, read from the machine code of an H100: what their loops may take in.

    bytes per warp instruction = weights that a turn of the loop reads / instructions that a warp issues for it

At two instructions a cycle, as integer units and loads let a multiprocessor issue, that is a bandwidth which
instructions allow. Where it is above what memory gives, memory binds. Nothing of this was run.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ...kernels.planes.scratch import SLICE
from ..aot_case import Case
from ..aot_integers import ROWS, blocks_of, planes_case, tiles_case
from ..aot_planes import down_case, refine_case, score_case, up_case
from .gpu import LANES, code_of, loops_of

INSTRUCTIONS_PER_CYCLE, MULTIPROCESSORS, CLOCK = 2, 132, 1.7e9
BITS = (4, 6, 8)
_QUAD_OUTPUTS = 32  # of a tile


@dataclass(frozen=True)
class KernelLoop:
    """bits: read of each weight; outputs: of a program; load_bytes: the widest load of a thread."""

    kernel: str
    rows: int
    bits: int
    outputs: int
    load_bytes: int
    instructions: float  # of a warp, for each turn
    dots: float
    weight_bytes: float  # of all threads of the warp

    @property
    def bytes_per_instruction(self) -> float:
        return self.weight_bytes / self.instructions

    @property
    def terabytes_per_second(self) -> float:
        """What instructions allow."""
        return self.bytes_per_instruction * INSTRUCTIONS_PER_CYCLE * MULTIPROCESSORS * CLOCK / 1e12


def kernel_loops() -> Iterator[KernelLoop]:
    """Every number of rows of each product. Raises RuntimeError where registers spill."""
    for rows in ROWS:
        yield from _planes(rows)
    for rows in ROWS:
        yield from (_tiles(rows, blocks) for blocks in blocks_of(rows))
    for rows in ROWS:
        yield from (_scores(rows, gated) for gated in (True, False))
        yield from (_low_bits(rows, bits) for bits in (2, 4))
        yield _down(rows)
        yield _tile_up(rows)


def report() -> list[dict[str, Any]]:
    """All of them, rounded, as JSON has them."""
    return [
        {name: round(value, 1) if isinstance(value, float) else value for name, value in asdict(loop).items()}
        | {
            "bytes_per_instruction": round(loop.bytes_per_instruction, 1),
            "terabytes_per_second": round(loop.terabytes_per_second, 1),
        }
        for loop in kernel_loops()
    ]


def _planes(rows: int) -> Iterator[KernelLoop]:
    """A loop for each level: two pairs of inputs a turn, 8 outputs a word."""
    case = planes_case(rows)
    words = case.constants["WORDS"]
    loops, load = _compiled(case)
    for bits, opcodes in zip(BITS, loops, strict=True):
        dots = 2 * 8 * rows * words / LANES
        yield _told("graded planes", rows, bits, 8 * words, load, opcodes, dots, 4 * 8 * words * bits / 8)


def _tiles(rows: int, blocks: int) -> KernelLoop:
    """Four quads of inputs a turn, 32 outputs a block."""
    case = tiles_case(rows, blocks)
    [opcodes], load = _compiled(case)
    outputs = _QUAD_OUTPUTS * case.constants["OWN"]
    return _told("digit tiles", rows, 8, outputs, load, opcodes, 2 * rows * 4 * outputs / LANES, 16 * outputs)


def _scores(rows: int, gated: bool) -> KernelLoop:
    """Lines of 16 neurons of a group: four words of fields of 4 bits a thread, each multiplied twice."""
    case = score_case(rows, 4, gated)
    (opcodes, *_), load = _compiled(case)
    lines = case.constants["UNROLLED"]
    name = f"neurons by high bits{', gated' if gated else ''}"
    return _told(name, rows, 4, 16, load, opcodes, 8 * lines * rows, 512 * lines)


def _low_bits(rows: int, bits: int) -> KernelLoop:
    """Four words a thread of each of a few neurons, with a gate."""
    case = refine_case(rows, 4, 4 + bits, gated=True)
    (opcodes, *_), load = _compiled(case)
    neurons = case.constants["NEURONS"]
    return _told(
        "neurons by low bits, gated", rows, bits, neurons, load, opcodes, 32 // bits * neurons * rows, 512 * neurons
    )


def _down(rows: int) -> KernelLoop:
    """Four pairs of neurons over 128 outputs, a few times a turn."""
    case = down_case(rows)
    (opcodes, *_), load = _compiled(case)
    pairs = case.constants["UNROLLED"]
    return _told("rows of down", rows, 8, SLICE, load, opcodes, 16 * pairs * rows, 1024 * pairs)


def _tile_up(rows: int) -> KernelLoop:
    """Four words a thread of gate and up of a few neurons, by both digits."""
    case = up_case(rows, gated=True)
    (opcodes, *_), load = _compiled(case)
    neurons = case.constants["NEURONS"]
    return _told("tiles, gate and up", rows, 8, neurons, load, opcodes, 16 * neurons * rows, 1024 * neurons)


def _told(
    kernel: str, rows: int, bits: int, outputs: int, load: int, opcodes: Counter[str], dots: float, weight_bytes: float
) -> KernelLoop:
    instructions = opcodes.total() * dots / opcodes["IDP"]  # of a turn, where the compiler unrolled some
    return KernelLoop(kernel, rows, bits, outputs, load, instructions, dots, weight_bytes)


def _compiled(case: Case) -> tuple[list[Counter[str]], int]:
    """Opcodes of the loops that multiply, in their order, and the bytes of the widest load."""
    code = code_of(case)
    widest = max(int(width) for width in re.findall(r"\bLDG\.E\.(64|128)\b", code))
    return [each for each in loops_of(code) if each["IDP"]], widest // 8
