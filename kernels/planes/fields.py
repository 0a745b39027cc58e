"""Dot products of planes in Triton: fields of 4, 2 or 1 bits in words, as layout.py fills them, and int8 activations.

Slot s of a byte, its bits from s WIDTH on, belongs to matrix s mod MATRICES and to step s / MATRICES of the inputs. A
field is multiplied where it stands, by dp4a, so that its sum is 2^(s WIDTH) times too large, and set right at the end;
where rows are many it is moved first, once for all of them, as registers are few. Of nibbles of a gate and an up the
lower ones are never cut out: their sum is that over whole bytes less that over the upper ones.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from ..jit import constexpr, jit, tl
from ..words import dot_bytes

_MOST_SUMS = 8  # tensors in registers


def steps_of(width: int, matrices: int) -> int:
    """Runs of inputs that a byte of such fields holds."""
    return 8 // width // matrices


def chains_of(width: int, matrices: int, rows: int) -> int:
    """How many sums each row has: one a slot, or one a matrix where fields are moved or whole bytes are multiplied."""
    slots = 8 // width
    return matrices if slots * rows > _MOST_SUMS or (width == 4 and matrices == 2) else slots


@jit
def add_fields(
    sums, word, digits, further,
    WIDTH: constexpr, MATRICES: constexpr, ROWS: constexpr, CHAINS: constexpr, STRIDE: constexpr,
):  # fmt: skip
    """The sums with the products of all fields of a word. digits: where the first row's activations of the first step
    stand, the next step's `further` on and the next row's STRIDE.
    """
    if WIDTH == 4 and MATRICES == 2:
        upper = _field(word, 1, 4, False)
        found = ()
        for r in tl.static_range(ROWS):
            digit = tl.load(digits + r * STRIDE) + word * 0
            found = found + (dot_bytes(word, digit, sums[2 * r]), dot_bytes(upper, digit, sums[2 * r + 1]))
    else:
        for step in tl.static_range(8 // WIDTH // MATRICES):
            of_rows = ()
            for r in tl.static_range(ROWS):
                of_rows = of_rows + (tl.load(digits + step * further + r * STRIDE) + word * 0,)
            for m in tl.static_range(MATRICES):
                field = _field(word, step * MATRICES + m, WIDTH, CHAINS < 8 // WIDTH)
                found = ()
                for each in tl.static_range(CHAINS * ROWS):
                    if each % CHAINS == (step * MATRICES + m) % CHAINS:
                        found = found + (dot_bytes(field, of_rows[each // CHAINS], sums[each]),)
                    else:
                        found = found + (sums[each],)
                sums = found
        found = sums
    return found


@jit
def _field(word, SLOT: constexpr, WIDTH: constexpr, MOVED: constexpr):
    """Each byte's bits of a slot, in their place or at the lowest."""
    FIRST: constexpr = ((1 << WIDTH) - 1) * 0x01010101
    PLACE: constexpr = SLOT * WIDTH
    if MOVED:
        found = (word >> PLACE) & FIRST
    else:
        found = word & (((FIRST << PLACE) % 4294967296 ^ 2147483648) - 2147483648)  # as a signed number
    return found


@jit
def dots_of(totals, shift, WIDTH: constexpr, MATRICES: constexpr, ROWS: constexpr, CHAINS: constexpr):
    """Of what the sums came to, dot products of each row and matrix, rows first, times 2^shift."""
    SLOTS: constexpr = 8 // WIDTH
    found = ()
    for r in tl.static_range(ROWS):
        if WIDTH == 4 and MATRICES == 2:
            upper = totals[2 * r + 1]
            found = found + ((totals[2 * r] - upper) << shift, (upper >> 4) << shift)
        else:
            for m in tl.static_range(MATRICES):
                total = totals[0] * 0
                for s in tl.static_range(CHAINS // MATRICES):
                    total += _moved(totals[CHAINS * r + s * MATRICES + m], s * MATRICES + m, WIDTH, CHAINS < SLOTS)
                found = found + (total << shift,)
    return found


@jit
def _moved(total, SLOT: constexpr, WIDTH: constexpr, BEFORE: constexpr):
    """The sum of a slot whose fields were multiplied where they stand, unless they were moved before."""
    return total if BEFORE else total >> (SLOT * WIDTH)
