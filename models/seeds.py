"""Seeds of what is drawn by torch, and seeds made of several numbers. Imports no torch."""

import hashlib

from .bounds import Bound

SEED_LIMIT = 1 << 32  # torch's generators on a CPU read 32 bits: beyond them, two seeds would draw the same
DRAWN_SEED = Bound(0, SEED_LIMIT - 1, way_out="give a smaller one, or leave it out")


def folded(*parts: int) -> int:
    """One seed below 2^63 of several numbers of any size: another for each of them, down to its low 32 bits."""
    digest = hashlib.sha256(b"".join(f"{part};".encode() for part in parts)).digest()
    return int.from_bytes(digest[:8], "little") >> 1
