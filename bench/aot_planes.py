"""The kernels of FFNs that choose neurons as `moesaic.bench.aot` compiles them, in every number of rows."""

from collections.abc import Iterator
from typing import Any

from ..kernels.planes.digits import _BLOCK as _DIGITS
from ..kernels.planes.digits import _WARPS, _digits_kernel
from ..kernels.planes.down import REGISTERS, _down_kernel
from ..kernels.planes.down import unrolled_of as down_unrolled
from ..kernels.planes.fields import chains_of
from ..kernels.planes.layout import FIELDS
from ..kernels.planes.refine import WORDS, _refine_kernel, neurons_of
from ..kernels.planes.score import LINES, WARPS, _score_kernel, unrolled_of
from ..kernels.planes.scratch import stride_of
from ..kernels.rows import LAYER, TOLD
from ..kernels.tiles.route import INPUTS, OUTPUTS, TILES, WIDTH, _route_tiles_kernel
from ..kernels.tiles.route import WARPS as ROUTE_WARPS
from ..kernels.tiles.up import REGISTERS as UP_REGISTERS
from ..kernels.tiles.up import WORDS as UP_WORDS
from ..kernels.tiles.up import _up_tiles_kernel
from ..kernels.tiles.up import neurons_of as up_neurons
from .aot_case import Case
from .aot_integers import _DOTS, ROWS

_ROUTES = ((4, True), (1, False), (3, False), (2, True))  # bits that route, and whether there is a gate
_STRIDE = stride_of(4096) // 4
_ASKED = {"thresholds": "*fp32", "tiers": "*i32", "shares": "*fp32"}


def plane_cases() -> Iterator[Case]:
    """Every launch of both FFNs in every number of rows, and every number of bits in one of them."""
    norms = ((LAYER, False), (TOLD, False), (TOLD, True))
    yield from (digits_case(norm, two) for norm, two in norms)
    for rows, (bits, gated) in zip(ROWS, _ROUTES, strict=True):
        yield score_case(rows, bits, gated)
        yield refine_case(rows, bits, 6, gated)
        yield down_case(rows)
        yield route_case(rows)
        yield up_case(rows, gated)


def digits_case(norm: int, two: bool) -> Case:
    types = dict.fromkeys(("scale", "normed", "x", "largest", "stats", "weight", "offset"), "*fp32")
    types |= dict.fromkeys(("total", "lengths", "largest_h"), "*i32") | {
        "digits": "*i8",
        "counts": "*i64",
        "eps": "fp32",
    }
    even = ("stride", "stride_x", "inputs")
    name = f"{'tile' if two else 'plane'} digits {'layer' if norm == LAYER else 'rms, told'}"
    constants = {"NORM": norm, "TWO": two, "BLOCK": _DIGITS}
    return Case(name, _digits_kernel, types, constants, even, _WARPS, 3, load_bytes=0)


def score_case(rows: int, bits: int, gated: bool) -> Case:
    types = dict.fromkeys(("lists", "lengths", "fine", "dots", "largest_h", "groups", "digits", "total"), "*i32")
    types |= dict.fromkeys(("h", "scale"), "*fp32") | {"counts": "*i64"} | _ASKED
    constants: dict[str, Any] = {"BITS": bits, "MATRICES": 1 + gated, "ROWS": rows}
    constants |= {"ACTIVATION": "silu" if gated else "relu"}
    constants |= _chains(rows, gated) | {"LINES": LINES, "UNROLLED": unrolled_of(rows), "STRIDE": _STRIDE}
    name = f"plane scores {bits} bits{' gated' if gated else ''} {rows} rows"
    return Case(name, _score_kernel, types, constants, ("group_words",), WARPS, 1, _DOTS)


def refine_case(rows: int, bits: int, refined: int, gated: bool) -> Case:
    types = dict.fromkeys(("lists", "lengths", "largest_h", "fine", "dots", "low", "digits", "total"), "*i32")
    types |= dict.fromkeys(("h", "exact", "scale"), "*fp32") | {"importance": "*bf16", "counts": "*i64"} | _ASKED
    constants: dict[str, Any] = {
        "BITS": bits,
        "REFINED": refined,
        "MATRICES": 1 + gated,
        "BIASED": not gated,
        "ROWS": rows,
    }
    constants |= _chains(rows, gated) | {"ACTIVATION": "silu" if gated else "relu"}
    constants |= {"NEURONS": neurons_of(rows, 1 + gated, refined - bits), "WORDS": WORDS, "STRIDE": _STRIDE}
    even = ("low_words", "part_4", "part_2", "part_1", "group_halves")
    name = f"plane low bits {bits} to {refined}{' gated' if gated else ''} {rows} rows"
    return Case(name, _refine_kernel, types, constants, even, 1, 1, _DOTS, most_registers=REGISTERS)


def down_case(rows: int) -> Case:
    types = dict.fromkeys(("counters", "places", "lists", "lengths", "largest_h", "down", "tiers"), "*i32") | {
        "pairs": "*i16"
    }
    floats = ("y", "largest_y", "squares_y", "weights_y", "h", "size", "scale", "bias", "constants", "shares")
    types |= dict.fromkeys(floats, "*fp32") | {"sums": "*i64"}
    constants: dict[str, Any] = {
        "ADDED": True,
        "ACTIVATION": "",
        "GATED": False,
        "TELLS": True,
        "SQUARES": True,
        "HAS_BIAS": True,
    }
    constants |= {"ROWS": rows, "UNROLLED": down_unrolled(rows), "PAIR_ROOM": 256}
    even = ("stride_y", "outputs")
    return Case(f"plane down {rows} rows", _down_kernel, types, constants, even, 1, 1, _DOTS, most_registers=REGISTERS)


def route_case(rows: int) -> Case:
    types = dict.fromkeys(("tiles", "lengths", "wanted", "arrived"), "*i32") | {"counts": "*i64"} | _ASKED
    types |= dict.fromkeys(("routed", "normed"), "*fp32") | dict.fromkeys(("first", "second"), "*bf16")
    constants = {"ROWS": rows, "OUTPUTS": OUTPUTS, "INPUTS": INPUTS, "TILES": TILES, "WIDTH": WIDTH}
    even = ("stride", "inputs", "width")
    return Case(f"tile route {rows} rows", _route_tiles_kernel, types, constants, even, ROUTE_WARPS, 3)


def up_case(rows: int, gated: bool) -> Case:
    types = dict.fromkeys(("lists", "lengths", "largest_h", "tiles", "wanted", "up", "gate", "digits"), "*i32")
    types |= dict.fromkeys(("h", "up_scale", "gate_scale", "up_bias", "gate_bias", "size"), "*fp32")
    constants: dict[str, Any] = {"MATRICES": 1 + gated, "HAS_UP_BIAS": not gated, "HAS_GATE_BIAS": False, "ROWS": rows}
    constants |= {"ACTIVATION": "silu" if gated else "relu", "NEURONS": up_neurons(rows, gated), "WORDS": UP_WORDS}
    name = f"tile up{' gated' if gated else ''} {rows} rows"
    constants |= {"STRIDE": _STRIDE}
    return Case(name, _up_tiles_kernel, types, constants, ("words",), 1, 1, _DOTS, most_registers=UP_REGISTERS)


def _chains(rows: int, gated: bool) -> dict[str, int]:
    return {f"CHAINS_{width}": chains_of(width, 1 + gated, rows) for width in FIELDS}
