"""Memory for weights that are read over and over: on lines of their own, and on large pages where Linux has them."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate

import torch
from torch import Tensor

LINE = 64  # bytes
HUGE_PAGE = 2 << 20  # bytes


def on_large_pages(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies, one after the other on lines of their own, that begin where Linux may map pages of 2 MiB.

    The last such page is asked for only if more than half of it is used.
    """
    places = [0, *accumulate(-(-tensor.nbytes // LINE) * LINE for tensor in tensors)]
    memory = mmap.mmap(-1, places[-1] + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    begin = -whole.data_ptr() % HUGE_PAGE
    large = (places[-1] + HUGE_PAGE // 2) // HUGE_PAGE * HUGE_PAGE
    if large and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE, begin, min(large, len(memory) - begin))
    copies = []
    for tensor, place in zip(tensors, places, strict=False):
        copy = whole[begin + place : begin + place + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies.append(copy.copy_(tensor))
    return copies
