"""The kernels of two digits and of graded inputs as `moesaic.bench.aot` compiles them, in every number of rows."""

from collections.abc import Iterator

import torch

from ..kernels.digit_triton import _digits_kernel, _tiles_kernel, digit_tile
from ..kernels.graded.finish import _BLOCK, _SPLITS, _WARPS, _finish_kernel
from ..kernels.graded.fixed_point import CHUNK
from ..kernels.graded.lists import SLOTS, _lists_kernel, warps_of
from ..kernels.graded.multiply import _planes_kernel, graded_tile
from .aot_case import SHARED_LIMIT, TYPES, Case

ROWS = (1, 2, 4, 8)
_READ = 1024  # activations at a time
_DOTS = dict.fromkeys(SHARED_LIMIT, "IDP")
_BLOCKS = (18, 896)  # of 32 outputs, few and many


def integer_cases() -> Iterator[Case]:
    """What is made of activations, products, and the way into floating point."""
    for rows, dtype in zip(ROWS, (torch.bfloat16, torch.float32, torch.float16, torch.bfloat16), strict=True):
        yield lists_case(rows, dtype)
        yield digits_case(rows, dtype)
    yield from (planes_case(rows) for rows in ROWS)
    yield from (tiles_case(rows, blocks) for rows in ROWS for blocks in _BLOCKS)
    yield from (finish_case(planes, dtype) for planes, dtype in ((True, torch.bfloat16), (False, torch.float32)))


def lists_case(rows: int, dtype: torch.dtype) -> Case:
    whole = dict.fromkeys(("entries", "turns", "facts"), "*i32") | {"pairs": "*i16", "masks": "*u8"}
    floats = dict.fromkeys(("step", "thresholds", "worth"), "*fp32") | {"x": f"*{TYPES[dtype]}"}
    constants = {"ROWS": rows, "CHUNK": CHUNK, "SLOTS": SLOTS, "BLOCK": _READ}
    name = f"graded lists {TYPES[dtype]} {rows} rows"
    return Case(name, _lists_kernel, whole | floats, constants, ("stride_x", "inputs"), warps_of(rows), 3)


def digits_case(rows: int, dtype: torch.dtype) -> Case:
    types = {"digits": "*i8", "facts": "*i32", "step": "*fp32", "x": f"*{TYPES[dtype]}"}
    constants = {"ROWS": rows, "CHUNK": CHUNK, "BLOCK": _READ}
    name = f"digits {TYPES[dtype]} {rows} rows"
    return Case(name, _digits_kernel, types, constants, ("stride_x", "inputs"), warps_of(rows), 3)


def planes_case(rows: int) -> Case:
    """Products of graded inputs. The sums of 8 rows leave room for loads of 8 bytes."""
    types = dict.fromkeys(("partial", "planes", "entries", "turns", "pairs", "masks"), "*i32")
    words = graded_tile(rows, 4, 1).words
    constants = {"ROWS": rows, "WORDS": words, "SLOTS": SLOTS}
    name = f"graded planes {rows} rows"
    return Case(name, _planes_kernel, types, constants, ("row_words",), 1, 1, _DOTS, load_bytes=words // 8)


def tiles_case(rows: int, blocks: int) -> Case:
    """Products of int8 weights with digits."""
    types = dict.fromkeys(("partial", "tiles", "digits"), "*i32")
    tile = digit_tile(rows, blocks, 16)
    constants = {"ROWS": rows, "OWN": tile.blocks, "UNROLLED": tile.unrolled, "QUADS": CHUNK // 4}
    name = f"digit tiles {rows} rows, {tile.blocks} blocks"
    return Case(name, _tiles_kernel, types, constants, ("quads",), 1, 1, _DOTS)


def finish_case(planes: bool, dtype: torch.dtype) -> Case:
    y = f"*{TYPES[dtype]}"
    types = {"y": y, "counts": "*i64" if planes else y, "partial": "*i32", "facts": "*i32"}
    floats = dict.fromkeys(("step", "scale", "bias"), "*fp32")
    constants = {"ROWS": 8, "BLOCK": _BLOCK, "SPLITS": _SPLITS, "CHUNKS": 16, "PLANES": planes, "HAS_BIAS": True}
    name = f"finish {TYPES[dtype]} of {'planes' if planes else 'tiles'}"
    return Case(name, _finish_kernel, types | floats, constants, ("width", "rows"), _WARPS, 3)
