"""Instructions of the graded kernel's inner loops for each weight that is read, written and as compiled.

A turn of a loop takes four inputs of one level, of P planes, over 128 outputs (AVX-512) or 64 (AVX2). What it must do:

    loads       4 P; as many again are operands of the interleaving
    interleave  8 P
    nibbles     joined from planes of 2 bits, moved to the upper half of bytes and masked
    products    2 digits for each of 8 vectors of sums; with AVX2 each takes 3 instructions, and 8 bits are two products
    lists       4 rows and 4 rows ahead, 4 P prefetches, 2 digits, the loop

The written count is `COUNTS`; `compiled_counts` reads the built library with objdump, and a test holds one to the
other. What is compiled moves registers as well: up to a third more for 8 bits.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..kernels.graded.bytes import level_bits

INPUTS = 4
OUTPUTS = {"avx512_vnni": 128, "avx2": 64}
_PLANES = (4, 2, 2)
_CODE = {4: "4, 0", 6: "4, 2", 8: "4, 22"}  # template arguments, by bits
_MULTIPLIES = ("vpdpbusd", "vpmaddubsw")


@dataclass(frozen=True)
class Count:
    """Instructions of one turn, for the weights of 4 inputs at one level."""

    loads: int
    interleave: int
    nibbles: int
    products: int
    lists: int

    @property
    def total(self) -> int:
        return self.loads + self.interleave + self.nibbles + self.products + self.lists


# by instruction set and bits read
COUNTS = {
    "avx512_vnni": {
        4: Count(4, 8, 12, 16, 22),
        6: Count(8, 16, 24, 16, 22),
        8: Count(12, 24, 28, 16, 26),
    },
    "avx2": {
        4: Count(4, 8, 12, 48, 36),
        6: Count(8, 16, 36, 96, 40),
        8: Count(12, 24, 52, 96, 44),
    },
}


def instructions_per_weight(isa: str) -> dict[str, float] | None:
    """By the bits that are read of a weight, as written; None for an instruction set that nobody counted."""
    if isa not in COUNTS:
        return None
    return {str(bits): count.total / (INPUTS * OUTPUTS[isa]) for bits, count in COUNTS[isa].items()}


def compiled_counts(library: Path, isa: str) -> dict[int, int]:
    """Instructions of a turn in the library, by bits. Raises OSError where there is no objdump."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for bits in level_bits(_PLANES)[1:]:
        name = re.escape(f"{isa}::add_pass<{_CODE[bits]}>(")
        code = re.search(rf"^[0-9a-f]+ <[^\n]*{name}[^\n]*>:\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL)
        found[bits] = _turn(code.group(1), isa) if code else 0
    return found


def _turn(code: str, isa: str) -> int:
    """Of all loops of products over whole blocks, or of both halves of their sums where each has its own."""
    halves = 2 if isa == "avx2" else 1
    loops = [each for each in _loops(code) if isa != "avx512_vnni" or any("%zmm" in line for line in each)]
    return sum(len(each) for each in loops[:halves])


def _loops(code: str) -> Iterator[list[str]]:
    """The innermost loops that multiply, in order."""
    lines = [line.split("\t") for line in code.splitlines()]
    places = {line[0].strip(" :"): i for i, line in enumerate(lines)}
    jumps = [
        (places.get(_target(line), i + 1), i) for i, line in enumerate(lines) if len(line) > 1 and line[1][0] == "j"
    ]
    back = [(begin, end) for begin, end in jumps if begin <= end]
    for begin, end in sorted(back):
        inside = ["\t".join(line) for line in lines[begin : end + 1]]
        innermost = not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in back)
        if innermost and any(word in line for line in inside for word in _MULTIPLIES):
            yield inside


def _target(line: list[str]) -> str:
    return line[1].split()[1] if len(line[1].split()) > 1 else ""
