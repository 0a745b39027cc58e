"""A kernel as one call launches it: what bench/aot.py compiles."""

from dataclasses import dataclass, field
from typing import Any

import torch

SHARED_LIMIT = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448}  # bytes a block may use
TENSOR_CORES = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}
TYPES = {
    **{torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"},
    **{torch.int8: "i8", torch.uint8: "u8", torch.int32: "i32"},
}


@dataclass(frozen=True)
class Case:
    """A kernel as one call launches it.

    `opcodes`: the instruction that a target's code must contain. `exact`: no tensor core may be used, as they
    round fp32 operands (triton 3.6.0 does so for sm_100 in tiles of 64 rows, even when asked for "ieee").
    `load_bytes`: of a thread, at once, of what the kernel reads most; 0 where it reads too little to matter.
    """

    name: str
    kernel: Any
    types: dict[str, str]  # of pointers; every other argument is int32
    constants: dict[str, Any]
    multiples_of_16: tuple[str, ...]  # integer arguments that the JIT would specialize
    num_warps: int
    num_stages: int
    opcodes: dict[int, str] = field(default_factory=dict)
    exact: bool = False
    load_bytes: int = 16
    most_registers: int | None = None  # of a thread, where the launch says so
