"""How fast a device multiplies bytes: dp4a, four of them by four, and dp2a, two of them by two of 16 bits.

The integer kernels are made of these. Nothing is read but a word a thread, whose sums wait for the ones before, eight
of them side by side.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment"

from collections.abc import Callable, Iterator
from statistics import median

import torch

from ...kernels.jit import constexpr, jit, tl
from ...kernels.words import dot_bytes, dot_pairs
from ..clock import samples_of
from ..rounds import DEVICE
from .rows import Row

CHAINS, UNROLLED, THREADS = 8, 4, 128
PROGRAMS, TURNS = 4096, 512
SECONDS = 0.2  # of samples, for each


@jit
def _dots_kernel(y, x, turns, PAIRS: constexpr, CHAINS: constexpr, UNROLLED: constexpr, THREADS: constexpr):
    at = tl.program_id(0) * THREADS + tl.arange(0, THREADS)
    word = tl.load(x + at)
    sums = ()
    for i in tl.static_range(CHAINS):
        sums = sums + (word + i,)  # no two alike, which would be computed once
    for _ in range(turns):
        for _ in tl.static_range(UNROLLED):
            found = ()
            for i in tl.static_range(CHAINS):
                if PAIRS:
                    found = found + (dot_pairs(word, word, i % 2, sums[i]),)
                else:
                    found = found + (dot_bytes(word, word, sums[i]),)
            sums = found
    for i in tl.static_range(CHAINS):
        tl.store(y + at * CHAINS + i, sums[i])


def dots() -> Iterator[tuple[str, Callable[[], Row]]]:
    """Each by its name. There is nothing to ask where there is no GPU."""
    if DEVICE == "cuda":
        yield "dp4a", lambda: _rate(False)
        yield "dp2a", lambda: _rate(True)


def _rate(pairs: bool) -> Row:
    """A multiplication and an addition are two operations."""
    x = torch.randint(-(2**31), 2**31 - 1, (PROGRAMS * THREADS,), device=DEVICE, dtype=torch.int32)
    y = torch.empty(PROGRAMS * THREADS * CHAINS, device=DEVICE, dtype=torch.int32)

    def call() -> None:
        _dots_kernel[(PROGRAMS,)](
            y, x, TURNS, PAIRS=pairs, CHAINS=CHAINS, UNROLLED=UNROLLED, THREADS=THREADS, num_warps=4
        )

    call()
    seconds = median(samples_of(call, SECONDS))
    done = PROGRAMS * THREADS * TURNS * UNROLLED * CHAINS
    return {"dots_per_second": done / seconds, "teraflops": done * (4 if pairs else 8) / seconds / 1e12}
