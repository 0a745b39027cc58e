"""The kernels of two digits and of graded inputs as `moesaic.bench.aot` compiles them, in every number of rows."""

from collections.abc import Iterator
from typing import Any

import torch

from ..kernels.digit_matrix import _matrix_kernel, _split_kernel, matrix_config
from ..kernels.digit_triton import REGISTERS, DigitTile, _tiles_kernel, digit_tile
from ..kernels.graded.finish import _BLOCK, _GATED_BLOCK, _SPLITS, _WARPS, _finish_kernel
from ..kernels.graded.lists import CHUNK, SLOTS, _lists_kernel, warps_of
from ..kernels.graded.multiply import _planes_kernel, graded_tile
from ..kernels.rows import _BLOCK as _MEASURED
from ..kernels.rows import LAYER, PLAIN, RMS, TOLD, _measure_kernel
from .aot_case import SHARED_LIMIT, TYPES, Case

ROWS = (1, 2, 4, 8)
_DOTS = dict.fromkeys(SHARED_LIMIT, "IDP")
_MATRICES = {
    80: "IMMA",
    86: "IMMA",
    89: "IMMA",
    90: "IGMMA",
    100: "IMMA",
}  # triton 3.6.0 knows no other way to int8 for sm_100
_NORMS = {PLAIN: "as they are", RMS: "rms", LAYER: "layer", TOLD: "rms, told"}
_SOURCE = dict.fromkeys(("largest", "stats", "weight", "offset"), "*fp32")


def integer_cases() -> Iterator[Case]:
    """What is made of activations, products, and the way into floating point."""
    yield from (measure_case(norm) for norm in (PLAIN, RMS, LAYER))
    for rows, dtype in zip(ROWS, (torch.bfloat16, torch.float32, torch.float16, torch.bfloat16), strict=True):
        yield lists_case(rows, dtype)
    yield from (planes_case(rows) for rows in ROWS)
    yield from (tiles_case(rows, blocks) for rows in ROWS for blocks in blocks_of(rows))
    yield from (step_case(rows, norm) for rows in ROWS for norm in _NORMS)
    yield from (matrix_case(tokens, outputs) for tokens, outputs in ((16, 64), (32, 64), (64, 64), (128, 4096)))
    yield from (split_case(norm) for norm in (PLAIN, LAYER))
    yield from (finish_case(added, dtype) for added, dtype in ((False, torch.bfloat16), (True, torch.float32)))


def blocks_of(rows: int) -> tuple[int, ...]:
    """How many blocks of 32 outputs lead to each tile of so many rows."""
    return (18, 896) if rows <= 4 else (896,)


def measure_case(norm: int) -> Case:
    types = dict.fromkeys(("largest", "stats", "x", "weight", "bias"), "*fp32") | {"eps": "fp32"}
    constants = {"NORM": norm, "BLOCK": _MEASURED}
    return Case(f"measure {_NORMS[norm]}", _measure_kernel, types, constants, ("stride_x", "inputs"), 4, 3)


def lists_case(rows: int, dtype: torch.dtype) -> Case:
    whole = dict.fromkeys(("entries", "turns", "facts"), "*i32") | {"pairs": "*i16", "masks": "*u8"}
    floats = dict.fromkeys(("step", "thresholds", "worth"), "*fp32") | {"x": f"*{TYPES[dtype]}", "eps": "fp32"}
    constants = {"ROWS": rows, "CHUNK": CHUNK, "SLOTS": SLOTS, "NORM": TOLD}
    name = f"graded lists {TYPES[dtype]} {rows} rows"
    return Case(
        name,
        _lists_kernel,
        whole | floats | _SOURCE,
        constants,
        ("stride_x", "inputs"),
        warps_of(rows),
        3,
        load_bytes=0,
    )


def planes_case(rows: int) -> Case:
    """Products of graded inputs. The sums of 8 rows leave room for loads of 8 bytes."""
    types = dict.fromkeys(("partial", "planes", "entries", "turns", "pairs", "masks"), "*i32")
    words = graded_tile(rows, 4, 1).words
    constants = {"ROWS": rows, "WORDS": words, "SLOTS": SLOTS}
    name = f"graded planes {rows} rows"
    return Case(name, _planes_kernel, types, constants, ("row_words",), 1, 1, _DOTS, load_bytes=words // 8)


def tiles_case(rows: int, blocks: int) -> Case:
    """Products of int8 weights with digits, by themselves."""
    tile = digit_tile(rows, blocks, 1024)
    plain = {"NORM": PLAIN, "ADDED": False, "ACTIVATION": "", "GATED": False, "TELLS": False, "SQUARES": False}
    return _tiles_case(f"digit tiles {rows} rows, {tile.blocks} blocks", rows, tile, plain, "*bf16")


def step_case(rows: int, norm: int) -> Case:
    """The same within a step: a norm before it and an FFN's activation, or an addition, behind it."""
    gated = norm != PLAIN
    tile = digit_tile(rows, 896 if gated else 128, 1024, gated)
    behind = {
        "ADDED": not gated,
        "ACTIVATION": "silu" if gated else "",
        "GATED": gated,
        "TELLS": True,
        "SQUARES": not gated,
    }
    name = f"digit tiles in a step {rows} rows, {_NORMS[norm]}"
    return _tiles_case(name, rows, tile, {"NORM": norm, **behind}, "*fp32")


def _tiles_case(name: str, rows: int, tile: DigitTile, constants: dict[str, Any], floats: str) -> Case:
    types = dict.fromkeys(("counters", "tiles"), "*i32") | {"partial": "*i64", "digits": "*i8"}
    types |= (
        dict.fromkeys(("largest_y", "squares_y", "weights_y", "scale", "bias"), "*fp32")
        | {"x": floats, "y": floats, "eps": "fp32"}
        | _SOURCE
    )
    more = {"HAS_BIAS": True, "SPLIT": True, "ROWS": rows, "OWN": tile.blocks, "UNROLLED": tile.unrolled}
    even = ("quads", "stride_x", "stride_y", "inputs", "turns")
    return Case(name, _tiles_kernel, types, constants | more, even, 1, 1, _DOTS, most_registers=REGISTERS)


def matrix_case(tokens: int, outputs: int) -> Case:
    """Both digits of many rows by tensor cores."""
    tile = matrix_config(tokens, outputs)
    types = {"y": "*bf16", "digits": "*i8", "tiles": "*i8", "largest": "*fp32", "scale": "*fp32", "bias": "*fp32"}
    constants = {"HAS_BIAS": True, "BLOCK_TOKENS": tile.block_tokens, "BLOCK_OUTPUTS": tile.block_outputs}
    name = f"digit matrix {tile.block_outputs}x{tile.block_tokens}x{tile.block_inputs}"
    even = ("stride_y", "outputs", "quads", "width")
    constants["BLOCK_INPUTS"] = tile.block_inputs
    return Case(name, _matrix_kernel, types, constants, even, tile.num_warps, tile.num_stages, _MATRICES)


def split_case(norm: int) -> Case:
    types = {"digits": "*i8", "x": "*bf16"} | _SOURCE
    constants = {"NORM": norm, "PIECE": 1024}
    return Case(
        f"digits of many rows {_NORMS[norm]}", _split_kernel, types, constants, ("stride_x", "inputs", "width"), 4, 3
    )


def finish_case(gated: bool, dtype: torch.dtype) -> Case:
    """By itself, or with an FFN's activation and an addition, which no model asks for at once."""
    y = f"*{TYPES[dtype]}"
    types = {"y": y, "counts": "*i64", "partial": "*i32", "facts": "*i32"}
    floats = dict.fromkeys(("largest_y", "squares_y", "weights_y", "step", "scale", "bias"), "*fp32")
    behind = {"ADDED": gated, "ACTIVATION": "silu" if gated else "", "GATED": gated, "TELLS": gated, "SQUARES": gated}
    constants = {
        "ROWS": 8,
        "BLOCK": _GATED_BLOCK if gated else _BLOCK,
        "SPLITS": _SPLITS // (1 + gated),
        "CHUNKS": 16,
        "HAS_BIAS": True,
    }
    name = f"finish {TYPES[dtype]}{' in a step' if gated else ''}"
    return Case(name, _finish_kernel, types | floats, constants | behind, ("width", "rows", "outputs"), _WARPS, 3)
