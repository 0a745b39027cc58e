"""What stands between the products of a decode step, as `moesaic.bench.aot` compiles it."""

from collections.abc import Iterator

import torch

from ..kernels.decode.attend import PART, REGISTERS, WARPS, _attend_kernel, positions_of
from ..kernels.decode.elementwise import BLOCK, _activate_kernel, _normalise_kernel
from ..kernels.paged_attention import BLOCK_TOKENS
from ..kernels.rows import TOLD
from .aot_case import TYPES, Case

_HEADS = ((64, 3), (128, 4), (80, 1), (64, 8))  # values of a head, queries of a key


def step_cases() -> Iterator[Case]:
    """Attention of heads of several sizes and groups, kept in each dtype, and what has no product to go with."""
    for (size, group), dtype in zip(_HEADS, (torch.int8, torch.bfloat16, torch.float32, torch.float16), strict=True):
        yield attend_case(size, group, dtype)
    yield normalise_case()
    yield activate_case()


def attend_case(size: int, group: int, dtype: torch.dtype) -> Case:
    """One new token of each row."""
    types = dict.fromkeys(("mixed", "largest", "sums", "query", "key", "value", "cosine", "sine"), "*fp32")
    types |= dict.fromkeys(("counters", "tables", "positions"), "*i32") | {"factor": "fp32"}
    types |= dict.fromkeys(("keys", "values"), f"*{TYPES[dtype]}") | dict.fromkeys(
        ("key_scale", "value_scale"), "*fp32"
    )
    constants = {
        "GROUP": group, "SIZE": 1 << (size - 1).bit_length(), "TURNED": True, "INT8": dtype == torch.int8,
        "BLOCK_TOKENS": BLOCK_TOKENS, "PART": PART, "STEP": positions_of(group),
    }  # fmt: skip
    even = ("stride_mixed", "stride_q", "stride_k", "stride_v", "size", "stored")
    name = f"attend {TYPES[dtype]} {group} heads of {size}"
    return Case(
        name,
        _attend_kernel,
        types,
        constants,
        even,
        WARPS,
        3,
        load_bytes=0 if dtype == torch.int8 else 16,
        most_registers=REGISTERS,
    )


def normalise_case() -> Case:
    types = dict.fromkeys(("x", "largest", "stats", "weight", "offset"), "*fp32") | {"y": "*bf16", "eps": "fp32"}
    even = ("stride_y", "stride_x", "inputs")
    return Case("normalise", _normalise_kernel, types, {"NORM": TOLD, "BLOCK": BLOCK}, even, 4, 3, load_bytes=0)


def activate_case() -> Case:
    types = dict.fromkeys(("y", "largest", "up", "gate"), "*fp32")
    constants = {"ACTIVATION": "silu", "GATED": True, "BLOCK": BLOCK}
    even = ("stride_y", "stride_up", "stride_gate", "width")
    return Case("activate", _activate_kernel, types, constants, even, 4, 3, load_bytes=0)
