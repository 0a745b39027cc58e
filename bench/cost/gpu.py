"""Instructions of GPU loops for each weight, written down part by part, and as compiled for an H100.

A thread's turn of a loop multiplies `weights`, once for each of `rows` of activations. What a turn does:

    loads       words of weights, 16 bytes at a time where they lie so; digits; where listed inputs begin
    permute     8 `prmt` for a transposition of four words, 2 bytes of one input beside 2 of the next, then four
    logic       masks of nibbles, joins of planes (one `lop3` each), masks of rows that read unlike
    shifts      planes moved to where they belong
    dots        `dp4a`: 2 digits for each word and row
    floats      of int4: a group's sum joined, converted and scaled
    addresses   an add or two a load; the loop

Loads, addresses and floats have units of their own; the rest is the integer units' work, which they do at half of the
rate of issue. Nothing of this was run: `compiled` reads the machine code, which `tests/test_cost.py` compares.
"""

import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...kernels.int8_linear import int8_linear_config
from ..aot import compile_case, int8_linear_case, nvidia_tool
from ..aot_case import Case
from . import gpu_kernels
from .processor import DIGITS, GRADED, HIGH, INPUTS, INT4, LOW, Turn

TARGET = 90
LANES = 32  # threads that an instruction is issued for
_TYPES = {"scale": "*bf16"}
_INTEGERS = ("stride", "words", "groups", "turns")
_INTEGER_UNITS = ("permute", "logic", "shifts", "dots")
_LOOP, _LISTS = 3, 10  # compare, branch, add; with pointers to two lists


@dataclass(frozen=True)
class GPULoop(Turn):
    """parts: instructions of a thread's turn, over `weights`. dots: how many `dp4a` a turn has, by which turns that
    the compiler unrolled are told.
    """

    name: str
    kernel: Any
    constants: dict[str, int]
    weights: int
    parts: dict[str, int]
    rows: int = 1

    @property
    def integer_per_weight(self) -> float:
        """Of the integer units."""
        return sum(self.parts.get(name, 0) for name in _INTEGER_UNITS) / self.weights

    def compiled(self) -> float:
        """Instructions of a turn in the machine code. Raises RuntimeError where registers spill."""
        opcodes = max(loops_of(_machine_code(self)), key=lambda each: each["IDP"])
        return sum(opcodes.values()) * self.parts["dots"] / opcodes["IDP"]


def _graded(bits: int, rows: int) -> GPULoop:
    """N: outputs of a thread, 16 for a word of two planes of each half; 4 inputs a turn."""
    words = 2 if rows == 1 else 1
    n = 16 * words
    vectors = {4: 8, 6: 12, 8: 16}[bits]
    permute, logic, shifts = {4: (16, 16, 0), 6: (24, 24, 20), 8: (32, 24, 24)}[bits]
    masked = rows if bits > 4 and rows > 1 else 0
    return GPULoop(
        f"{GRADED}, {bits} bits",
        gpu_kernels.graded,
        {"BITS": bits, "ROWS": rows, "WORDS": 32 * words},
        4 * n,
        {
            "loads": vectors + 4 + 2 * rows + masked,
            "permute": permute * words,
            "logic": logic * words + masked * n,
            "shifts": shifts * words,
            "dots": 2 * rows * n,
            "addresses": vectors + 4 + _LISTS,
        },
        rows,
    )


def _inputs(rows: int) -> GPULoop:
    words = 2 if rows == 8 else 4
    n = 4 * words
    parts = {"loads": 8 + 2 * rows, "permute": 2 * n, "dots": 2 * rows * n, "addresses": 12 + _LISTS}
    return GPULoop(INPUTS, gpu_kernels.inputs, {"ROWS": rows, "WORDS": 32 * words}, 4 * n, parts, rows)


def _int8(rows: int) -> GPULoop:
    outputs = {1: 8, 4: 4, 8: 2}[rows]
    loads = outputs + 2 * rows
    parts = {"loads": loads, "dots": 2 * rows * 4 * outputs, "addresses": loads + _LOOP}
    constants = {"ROWS": rows, "OUTPUTS": outputs, "WORDS": 128}
    return GPULoop(DIGITS, gpu_kernels.int8, constants, 16 * outputs, parts, rows)


def _int4(rows: int) -> GPULoop:
    groups = 4 if rows == 1 else 2
    parts = {
        "loads": 5 + 16 * rows,
        "logic": 8 * groups,
        "shifts": 4 * groups,
        "dots": 16 * rows * groups,
        "floats": (3 * rows + 1) * groups,
        "addresses": 17,
    }
    return GPULoop(INT4, gpu_kernels.int4, {"ROWS": rows, "GROUPS": 32 * groups}, 32 * groups, parts, rows)


def _planes(name: str, field: int) -> GPULoop:
    outputs, fields = 2, 8 // field
    words = 4 * outputs
    loads = outputs + fields
    parts = {
        "loads": loads,
        "logic": words * fields,
        "shifts": words * (fields - 1),
        "dots": words * fields,
        "addresses": loads + _LOOP,
    }
    constants = {"FIELD": field, "OUTPUTS": outputs, "WORDS": 128}
    return GPULoop(name, gpu_kernels.planes, constants, 4 * words * fields, parts)


LOOPS = [
    *(_graded(bits, rows) for bits in (4, 6, 8) for rows in (1, 4)),
    *(make(rows) for make in (_inputs, _int8, _int4) for rows in (1, 4, 8)),
    _planes(HIGH, 4),
    _planes(LOW, 2),
]


def loop_of(name: str, rows: int = 1) -> GPULoop:
    """The loop that was written down for so many rows of activations."""
    return next(each for each in LOOPS if (each.name, each.rows) == (name, rows))


def _machine_code(loop: GPULoop) -> str:
    arguments = [name for name in loop.kernel.arg_names if name not in loop.constants]
    types = {name: _TYPES.get(name, "*i32") for name in arguments if name not in _INTEGERS}
    whole = tuple(name for name in arguments if name in _INTEGERS and name != "turns")
    return code_of(Case(f"{loop.name} of {loop.rows} rows", loop.kernel, types, dict(loop.constants), whole, 1, 1))


def code_of(case: Case) -> str:
    """The machine code for TARGET. Raises RuntimeError where registers spill."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(compile_case(case, TARGET).asm["cubin"])
        code = nvidia_tool("cuobjdump", "--dump-sass", binary)
    if re.search(r"\b(?:LDL|STL)\b", code):
        raise RuntimeError(f"{case.name} spills registers")
    return code


def loops_of(code: str) -> list[Counter[str]]:
    """Opcodes of each loop."""
    found = re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_]+)(\S*.*?);", code)
    place = {int(address, 16): i for i, (address, *_) in enumerate(found)}
    loops = []
    for i, (_, opcode, rest) in enumerate(found):
        target = re.search(r"0x([0-9a-f]+)", rest) if opcode == "BRA" else None
        if target and place.get(int(target[1], 16), i) < i:
            loops.append(Counter(each for _, each, _ in found[place[int(target[1], 16)] : i + 1]))
    return loops


@cache
def shipped_tile() -> tuple[float, float]:
    """Instructions for each weight of the decode tile of int8_linear, in bf16 on tensor cores, for up to 16 rows; and
    those but for loads and barriers. As compiled: nobody has written them down.
    """
    tile = int8_linear_config(1, 4096, torch.bfloat16)
    opcodes = max(loops_of(code_of(int8_linear_case(torch.bfloat16, tile, prefill=False))), key=Counter.total)
    threads = tile.num_warps * LANES / (tile.block_outputs * tile.block_inputs)
    elsewhere = sum(opcodes[each] for each in ("LDG", "LDGSTS", "LDS", "STS", "LDSM", "STSM", "BAR", "NOP", "BRA"))
    return opcodes.total() * threads, (opcodes.total() - elsewhere) * threads
