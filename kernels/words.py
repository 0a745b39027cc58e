"""Words of four bytes in Triton: the dot products and permutations that a GPU has as one instruction each.

PLAIN: the same in plain arithmetic, for Triton's interpreter, which knows no assembly.
"""

# Triton types arguments by what they are called with.
# mypy: disable-error-code="no-untyped-def"

from .jit import constexpr, jit, tl


@jit
def dot_bytes(words, digits, sums, PLAIN: constexpr):
    """sums + four products: unsigned bytes of words, signed ones of digits."""
    if PLAIN:
        for i in tl.static_range(4):
            sums = sums + (words >> (8 * i) & 255) * (digits << (24 - 8 * i) >> 24)
    else:
        sums = tl.inline_asm_elementwise(
            "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [words, digits, sums], dtype=tl.int32, is_pure=True, pack=1
        )
    return sums


@jit
def dot_pairs(pair, words, HALF: constexpr, sums, PLAIN: constexpr):
    """sums + two products: the two signed 16-bit numbers of pair, unsigned bytes 2 HALF and 2 HALF + 1 of words."""
    if PLAIN:
        first, second = words >> (16 * HALF) & 255, words >> (16 * HALF + 8) & 255
        sums = sums + (pair << 16 >> 16) * first + (pair >> 16) * second
    elif HALF == 0:
        sums = tl.inline_asm_elementwise(
            "dp2a.lo.s32.u32 $0, $1, $2, $3;", "=r,r,r,r", [pair, words, sums], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        sums = tl.inline_asm_elementwise(
            "dp2a.hi.s32.u32 $0, $1, $2, $3;", "=r,r,r,r", [pair, words, sums], dtype=tl.int32, is_pure=True, pack=1
        )
    return sums


@jit
def side_by_side(a, b, HALF: constexpr, PLAIN: constexpr):
    """Bytes 2 HALF and 2 HALF + 1 of two words, in turns: a, b, a, b."""
    if PLAIN:
        a, b = a >> (16 * HALF), b >> (16 * HALF)
        found = a & 255 | (b & 255) << 8 | (a & 65280) << 8 | (b & 65280) << 16
    elif HALF == 0:
        found = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, 0x5140;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        found = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, 0x7362;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
        )
    return found


@jit
def merged(a, b, MASK: constexpr, PLAIN: constexpr):
    """Of bytes of two words the upper MASK bits of a, alike in each half byte where MASK is 2, and the rest of b."""
    if PLAIN:
        mask: tl.constexpr = -0x0F0F0F10 if MASK == 4 else -0x33333334
        found = a & mask | b & ~mask
    elif MASK == 4:
        found = tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, $2, 0xf0f0f0f0, 0xe4;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        found = tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, $2, 0xcccccccc, 0xe4;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
        )
    return found
