"""Words of four bytes in Triton: the dot products and permutations that a GPU has as one instruction each.

Triton's interpreter knows no assembly; tests/instructions.py tells it what these instructions do.
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from .jit import constexpr, jit, tl


@jit
def dot_bytes(words, digits, sums, SIGNED: constexpr = False):
    """sums + four products: bytes of words, signed ones of digits."""
    NAME: constexpr = "dp4a.s32.s32" if SIGNED else "dp4a.u32.s32"
    return tl.inline_asm_elementwise(
        NAME + " $0, $1, $2, $3;", "=r,r,r,r", [words, digits, sums], dtype=tl.int32, is_pure=True, pack=1
    )


@jit
def dot_pairs(pair, words, HALF: constexpr, sums, SIGNED: constexpr = False):
    """sums + two products: the two signed 16-bit numbers of pair, bytes 2 HALF and 2 HALF + 1 of words."""
    NAME: constexpr = ("dp2a.lo.s32." if HALF == 0 else "dp2a.hi.s32.") + ("s32" if SIGNED else "u32")
    return tl.inline_asm_elementwise(
        NAME + " $0, $1, $2, $3;", "=r,r,r,r", [pair, words, sums], dtype=tl.int32, is_pure=True, pack=1
    )


@jit
def side_by_side(a, b, HALF: constexpr):
    """Bytes 2 HALF and 2 HALF + 1 of two words, in turns: a, b, a, b."""
    PLACES: constexpr = "0x5140" if HALF == 0 else "0x7362"
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, " + PLACES + ";", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )


@jit
def merged(a, b, MASK: constexpr):
    """Bits of a where MASK, written "0xf0f0f0f0", has them, and of b elsewhere."""
    return tl.inline_asm_elementwise(
        "lop3.b32 $0, $1, $2, " + MASK + ", 0xe4;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )
