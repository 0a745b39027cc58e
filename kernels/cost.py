"""How much a call moves and computes. Plain numbers, no torch, so that planning needs no model in memory."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """One call: bytes read and written, and floating-point operations (a multiplication and an addition are two)."""

    bytes: int
    flops: int
