"""The kernels of mixtures of experts as `moesaic.bench.aot` compiles them."""

from collections.abc import Iterator
from typing import Any

import torch

from ..kernels.mixture.choose import INPUTS, WARPS, _choose_kernel
from ..kernels.mixture.combine import VALUES, _combine_few_kernel, _combine_kernel
from ..kernels.mixture.few import _LINE, REGISTERS, _few_kernel, outputs_of
from ..kernels.mixture.many import _many_kernel, many_config
from .aot_case import TENSOR_CORES, TYPES, Case
from .aot_integers import _DOTS, _MATRICES

_ASSIGNED = dict.fromkeys(("pairs", "experts", "count", "largest_y"), "*i32")
_SCALES = dict.fromkeys(("first_scale", "second_scale", "size"), "*fp32")
_EVEN = ("stride_y", "stride_x", "stride_digit", "inputs", "outputs")


def mixture_cases() -> Iterator[Case]:
    """Few tokens in every form of weights, one row and more; blocks of many; the choice of 8, 64 and 128 experts."""
    for rows, experts in ((1, 8), (2, 64), (8, 128)):
        yield choose_case(rows, experts, tiered=rows > 1)
    for rows, matrices, weight in (
        *((rows, matrices, torch.int8) for rows in (1, 2) for matrices in (2, 1)),
        (1, 2, torch.bfloat16), (2, 1, torch.bfloat16), (2, 2, torch.float16), (1, 1, torch.float32),
    ):  # fmt: skip
        yield few_case(rows, matrices, weight)
    for rows, matrices, weight, x in (
        (16, 2, torch.int8, torch.int8), (32, 1, torch.int8, torch.int8), (32, 2, torch.int8, torch.int8),
        (16, 1, torch.int8, torch.int8), (16, 1, torch.bfloat16, torch.bfloat16),
        (64, 2, torch.bfloat16, torch.bfloat16), (64, 1, torch.float16, torch.float16),
        (32, 2, torch.bfloat16, torch.float32), (64, 1, torch.float32, torch.float32),
    ):  # fmt: skip
        yield many_case(rows, matrices, weight, x)
    yield from combine_cases()


def choose_case(rows: int, experts: int, tiered: bool) -> Case:
    types = dict.fromkeys(("pairs", "experts", "count", "largest", "arrived", "tiers"), "*i32") | {"counts": "*i64"}
    types |= dict.fromkeys(("parts", "logits", "normed", "wanted", "shares"), "*fp32") | {"choice": "*bf16"}
    constants = {"NORMALISED": True, "TIERED": tiered, "ROWS": rows, "BLOCK_ROWS": min(rows, 2)}
    constants |= {"EXPERTS": experts, "INPUTS": INPUTS}
    name = f"mixture choice of {experts} experts {rows} rows"
    types |= {"rounding": "fp32"}
    return Case(name, _choose_kernel, types, constants, ("stride", "inputs"), WARPS, 3)


def few_case(rows: int, matrices: int, weight: torch.dtype) -> Case:
    int8, gated = weight == torch.int8, matrices == 2
    kind = "*i32" if int8 else f"*{TYPES[weight]}"
    types = _ASSIGNED | _SCALES | {"y": "*fp32", "x": "*i32" if int8 else "*fp32", "first": kind, "second": kind}
    constants: dict[str, Any] = {"MATRICES": matrices, "INT8": int8, "MEASURED": not gated, "TELLS": int8 and gated}
    constants |= {"ACTIVATION": "silu" if gated else "", "ROWS": rows, "OUTPUTS": outputs_of(matrices)}
    constants["INPUTS"] = _LINE // (4 if int8 else weight.itemsize)
    name = f"mixture {'up' if gated else 'down'} {TYPES[weight]} {rows} rows"
    dots = _DOTS if int8 else {}
    return Case(name, _few_kernel, types, constants, _EVEN, 1, 1, dots, most_registers=REGISTERS)


def many_case(rows: int, matrices: int, weight: torch.dtype, x: torch.dtype) -> Case:
    int8, gated, exact = weight == torch.int8, matrices == 2, x == torch.float32
    tile, y = many_config(rows, matrices, int8, exact), torch.float32 if int8 else x
    kind = f"*{TYPES[weight]}"
    types = _ASSIGNED | _SCALES | {"y": f"*{TYPES[y]}", "x": f"*{TYPES[x]}", "first": kind, "second": kind}
    constants: dict[str, Any] = {"MATRICES": matrices, "INT8": int8, "TELLS": int8 and gated}
    constants |= {"ACTIVATION": "silu" if gated else "", "BLOCK_TOKENS": tile.block_tokens}
    constants |= {"BLOCK_OUTPUTS": tile.block_outputs, "BLOCK_INPUTS": tile.block_inputs}
    name = f"mixture {'up' if gated else 'down'} {TYPES[x]} {TYPES[weight]} in blocks of {rows}"
    opcodes = {} if exact else _MATRICES if int8 else TENSOR_CORES
    warps, stages = tile.num_warps, tile.num_stages
    return Case(name, _many_kernel, types, constants, _EVEN, warps, stages, opcodes, exact=exact)


def combine_cases() -> Iterator[Case]:
    types = dict.fromkeys(("y", "largest_y", "squares_y", "weights_y", "made", "parts"), "*fp32")
    constants = {"ADDED": True, "ACTIVATION": "", "GATED": False, "TELLS": True, "SQUARES": True}
    even = ("stride_y", "outputs")
    yield Case("mixture sum in a step", _combine_few_kernel, types, constants, even, 1, 3, load_bytes=0)
    many = {"y": "*bf16", "made": "*bf16", "parts": "*fp32"}
    yield Case("mixture sum", _combine_kernel, many, {"VALUES": VALUES}, even, 4, 3)
