"""Triton kernels of one row and of a few, to count their instructions: compiled ahead of time, run by nobody yet.

Weights are words of four bytes, unsigned (128 or 8 added), activations two digits of int8, sums exact in int32; what
comes after the sums is left out. `dp4a` multiplies four bytes by four. Where inputs are listed, `entry` has the first
word of each input's row, four inputs a turn, and `digits` the four bytes of high digits and those of low ones of each
row of the activations, [turns, ROWS, 2]: an input that a row does not read has digits of 0.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,assignment,var-annotated"

from ...kernels.jit import constexpr, jit, tl

_UPPER = constexpr(-0x0F0F0F10)  # 0xF0F0F0F0
_LOWER = constexpr(0x0F0F0F0F)
_PAIRS = constexpr(-0x33333334)  # 0xCCCCCCCC
_FIELDS = constexpr(0x03030303)


@jit
def dot(a, b, c):
    """c + four products of unsigned bytes and signed ones."""
    return tl.inline_asm_elementwise(
        "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
    )


@jit
def pick(a, b, WHICH: constexpr):
    """Four of the eight bytes of two words."""
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, " + WHICH + ";", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )


@jit
def merge(a, b, MASK: constexpr):
    """a where the mask is set, b elsewhere."""
    return tl.inline_asm_elementwise(
        "lop3.b32 $0, $1, $2, " + MASK + ", 0xe4;", "=r,r,r", [a, b], dtype=tl.int32, is_pure=True, pack=1
    )


@jit
def transposed(rows):
    """Words of four inputs become words of four outputs: byte i of each."""
    a, b = pick(rows[0], rows[1], "0x5140"), pick(rows[0], rows[1], "0x7362")
    c, d = pick(rows[2], rows[3], "0x5140"), pick(rows[2], rows[3], "0x7362")
    return pick(a, c, "0x5410"), pick(a, c, "0x7632"), pick(b, d, "0x5410"), pick(b, d, "0x7632")


@jit
def four_rows(rows, entry, turn, at):
    """Words of the four inputs of a turn, transposed."""
    first = ()
    for i in tl.static_range(4):
        begin = tl.multiple_of(tl.load(entry + 4 * turn + i), 16)
        first = first + (tl.load(rows + begin + at),)
    return transposed(first)


@jit
def add(sums, words, digits, turn, ROWS: constexpr, mask, MASKED: constexpr):
    """The words of outputs times the digits of every row, masked by row where rows read unlike."""
    found = ()
    for r in tl.static_range(ROWS):
        high = tl.load(digits + (turn * ROWS + r) * 2)
        low = tl.load(digits + (turn * ROWS + r) * 2 + 1)
        for i in tl.static_range(len(words)):
            word = words[i]
            if MASKED:
                word = word & tl.load(mask + turn * ROWS + r)
            found = found + (dot(word, high + word * 0, sums[len(found)]),)
            found = found + (dot(word, low + word * 0, sums[len(found)]),)
    return found


@jit
def graded(y, rows, low_rows, entry, digits, mask, stride, turns, BITS: constexpr, ROWS: constexpr, WORDS: constexpr):
    """Inputs that are read as far as BITS: 4, 6 or 8. A word of the first plane holds 8 outputs, of the others 16.

    Output n of 16 has its first plane in word n / 8, the other planes in a word of their own.
    """
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    zero = tl.zeros([WORDS], tl.int32)
    sums = (zero,) * (32 * ROWS)
    for turn in range(turns):
        words = ()
        below = ()
        if BITS > 4:
            second = four_rows(low_rows, entry, turn, at)
            if BITS == 8:
                third = four_rows(low_rows + stride, entry, turn, at)
                for i in tl.static_range(4):
                    below = below + (
                        merge(second[i], third[i] >> 2, "0xcccccccc"),
                        merge(second[i] << 2, third[i], "0xcccccccc"),
                    )
            else:
                for i in tl.static_range(4):
                    below = below + (second[i] & _PAIRS, (second[i] << 2) & _PAIRS)
        for half in tl.static_range(2):
            first = four_rows(rows + half * stride, entry, turn, at)
            for i in tl.static_range(4):
                if BITS == 4:
                    words = words + (first[i] & _UPPER, first[i] & _LOWER)
                else:
                    under = below[2 * i + half]
                    words = words + (
                        merge(first[i], under >> 4, "0xf0f0f0f0"),
                        merge(first[i] << 4, under, "0xf0f0f0f0"),
                    )
        sums = add(sums, words, digits, turn, ROWS, mask, BITS > 4 and ROWS > 1)
    for i in tl.static_range(32 * ROWS):
        tl.store(y + i * stride + at, sums[i])


@jit
def inputs(y, rows, entry, digits, stride, turns, ROWS: constexpr, WORDS: constexpr):
    """Inputs that are read whole: plain int8, input by input; a word holds 4 outputs."""
    at = tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    zero = tl.zeros([WORDS], tl.int32)
    sums = (zero,) * (8 * ROWS)
    for turn in range(turns):
        sums = add(sums, four_rows(rows, entry, turn, at), digits, turn, ROWS, digits, False)
    for i in tl.static_range(8 * ROWS):
        tl.store(y + i * stride + at, sums[i])


@jit
def int8(y, weight, digits, words, ROWS: constexpr, OUTPUTS: constexpr, WORDS: constexpr):
    """Every weight of plain rows [outputs, words]; digits [ROWS, 2, words]."""
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, WORDS)
    zero = tl.zeros([OUTPUTS, WORDS], tl.int32)
    sums = (zero,) * (2 * ROWS)
    for begin in range(0, words, WORDS):
        here = tl.load(weight + n[:, None] * words + begin + k[None, :])
        found = ()
        for each in tl.static_range(2 * ROWS):
            digit = tl.load(digits + each * words + begin + k)[None, :] + zero
            found = found + (dot(here, digit, sums[each]),)
        sums = found
    for each in tl.static_range(2 * ROWS):
        tl.store(y + each * words + n, tl.sum(sums[each], 1))


@jit
def int4(y, weight, scale, digits, groups, ROWS: constexpr, GROUPS: constexpr):
    """Every weight of rows of nibbles in groups of 32 with a bf16 scale, an output a program. Of GROUPS groups side by
    side first the first words of eight inputs, then the second: [outputs, groups / GROUPS, 4, GROUPS]; digits
    [groups / GROUPS, 2 ROWS, 4, 2, GROUPS], the inputs of lower nibbles first.
    """
    n = tl.program_id(0)
    g = tl.arange(0, GROUPS)
    zero = tl.zeros([GROUPS], tl.int32)
    sums = (zero.to(tl.float32),) * ROWS
    for begin in range(0, groups, GROUPS):
        size = tl.load(scale + n * groups + begin + g).to(tl.float32)
        parts = (zero,) * (2 * ROWS)
        for word in tl.static_range(4):
            here = tl.load(weight + (n * groups + begin) * 4 + word * GROUPS + g)
            for half in tl.static_range(2):
                nibbles = (here >> (4 * half)) & _LOWER
                found = ()
                for each in tl.static_range(2 * ROWS):
                    digit = tl.load(digits + begin * (16 * ROWS) + ((each * 4 + word) * 2 + half) * GROUPS + g)
                    found = found + (dot(nibbles, digit, parts[each]),)
                parts = found
        done = ()
        for r in tl.static_range(ROWS):
            done = done + (sums[r] + (parts[2 * r] * 256 + parts[2 * r + 1]).to(tl.float32) * size,)
        sums = done
    for r in tl.static_range(ROWS):
        tl.store(y + r * groups + n, tl.sum(sums[r], 0))


@jit
def planes(y, weight, digits, words, FIELD: constexpr, OUTPUTS: constexpr, WORDS: constexpr):
    """One plane of FIELD bits, 4 or 2, of every weight of rows, with one digit: digits [8 / FIELD, words]."""
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, WORDS)
    sums = tl.zeros([OUTPUTS, WORDS], tl.int32)
    for begin in range(0, words, WORDS):
        here = tl.load(weight + n[:, None] * words + begin + k[None, :])
        for field in tl.static_range(8 // FIELD):
            some = (here >> (FIELD * field)) & (_LOWER if FIELD == 4 else _FIELDS)
            digit = tl.load(digits + field * words + begin + k)[None, :] + tl.zeros([OUTPUTS, WORDS], tl.int32)
            sums = dot(some, digit, sums)
    tl.store(y + n, tl.sum(sums, 1))
