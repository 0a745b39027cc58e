"""Bytes and instructions for each weight of a model, by candidate and rows together.

A loop's instructions are for weights that it multiplies; a union says which part of a model's weights that is. Rows
that no loop takes at once are taken in several passes over what the first has brought into a cache.
"""

from collections.abc import Mapping

from . import gpu, processor, unions
from .machines import DP4A, Cost
from .processor import (
    ALIKE,
    DIGITS,
    DOWN,
    FILL,
    FILL_INPUTS,
    GRADED,
    HIGH,
    INPUTS,
    INT8,
    LOW,
    NARROW,
    NEURONS,
    TILE,
    WIDE,
)

ISAS = (WIDE, NARROW, DP4A)
_PASSES = {WIDE: 4, NARROW: 2, DP4A: 4}  # rows
_PASS = 4
NOTHING = Cost(0.0, 0.0)
_FEWEST = "4"  # bits, that whoever reads an input no further reads alike


def cost_of(
    candidate: str, isa: str, rows: int, pieces: Mapping[str, float], alone: Mapping[str, float]
) -> Cost | None:
    """pieces: of the union of these rows; alone: of one row, for loops that take rows one by one. None: no loop is
    counted. Names: those of processor.py's loops and NEURONS.
    """
    if candidate == NEURONS:
        return _neurons(isa, pieces) if rows == 1 else None
    if candidate == GRADED:
        return _graded(isa, rows, pieces, alone)
    if candidate == INPUTS:
        return _inputs(isa, rows).times(pieces["8"])
    if candidate == INT8 and isa == DP4A:
        return Cost(*gpu.shipped_tile())
    return _every(candidate, isa, rows)


def _every(name: str, isa: str, rows: int) -> Cost:
    """Of a loop that reads every weight."""
    if isa == DP4A:
        return _gpu(name, rows)
    together = _PASSES[isa] if name in (INT8, DIGITS) else _PASS
    return _cpu(name, isa) if rows == 1 else _cpu(name, isa, together).times(rows / together)


def _graded(isa: str, rows: int, pieces: Mapping[str, float], alone: Mapping[str, float]) -> Cost:
    if isa == DP4A:
        of_row = {bits: _gpu(f"{GRADED}, {bits} bits", min(rows, _PASS)) for bits in pieces}
        return _sum(of_row, pieces).times(max(1, rows // _PASS))
    one_by_one = _sum({bits: _cpu(f"{GRADED}, {bits} bits", isa) for bits in alone}, alone).times(rows)
    if rows == 1 and isa == WIDE:
        return one_by_one
    together, multiplied = NOTHING, min(rows, _PASSES[isa])
    for bits, share in pieces.items():
        tile = _cpu(ALIKE if bits == _FEWEST or rows == 1 else TILE, isa, multiplied).times(rows / multiplied)
        together += (_cpu(f"{FILL}, {bits} bits", isa) + tile).times(share)
    return min(one_by_one, together, key=lambda each: each.instructions)  # as the kernel chooses


def _inputs(isa: str, rows: int) -> Cost:
    if isa == DP4A:
        return _gpu(INPUTS, rows)
    return _cpu(INPUTS, isa) if rows == 1 else _cpu(FILL_INPUTS, isa) + _every(DIGITS, isa, rows)


def _neurons(isa: str, pieces: Mapping[str, float]) -> Cost:
    """Rows of down are inputs of down on a GPU."""
    if isa == DP4A:
        found = [_gpu(HIGH), _gpu(LOW), _gpu(INPUTS), _gpu(DIGITS)]
    else:
        found = [_cpu(name, isa) for name in (HIGH, LOW, DOWN, INT8)]
    return _sum(dict(zip((unions.HIGH, unions.LOW, unions.DOWN, unions.WHOLE), found, strict=True)), pieces)


def _sum(costs: Mapping[str, Cost], pieces: Mapping[str, float]) -> Cost:
    return sum((costs[name].times(share) for name, share in pieces.items()), NOTHING)


def _cpu(name: str, isa: str, rows: int = 1) -> Cost:
    found = processor.loop_of(name, isa, rows).per_weight
    return Cost(found, found)


def _gpu(name: str, rows: int = 1) -> Cost:
    loop = gpu.loop_of(name, rows)
    return Cost(loop.per_weight, loop.integer_per_weight)
