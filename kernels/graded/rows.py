"""The calls into cpp/graded_rows.cpp: planes made of int8 weights, and weights of planes."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from ..native import Native


def unpacked_native(rows: Tensor, outputs: int, planes: Sequence[int], read: int, library: Native) -> Tensor:
    """int8 [inputs, outputs] of the first `read` planes; the bits of the others are 0."""
    inputs, widths = len(rows), (ctypes.c_int64 * len(planes))(*planes)
    found = torch.empty(inputs, outputs, dtype=torch.int8)
    library.library.moesaic_graded_unpack(
        rows.data_ptr(), found.data_ptr(), inputs, outputs, rows.stride(0), len(planes), widths, read,
        torch.get_num_threads(),
    )  # fmt: skip
    return found


def pack_native(weight: Tensor, rows: Tensor, planes: Sequence[int], library: Native) -> None:
    """Fills rows of zeros with the planes of int8 [outputs, inputs]."""
    (outputs, inputs), widths = weight.shape, (ctypes.c_int64 * len(planes))(*planes)
    by_input = weight.T.contiguous()
    library.library.moesaic_graded_pack(
        by_input.data_ptr(), rows.data_ptr(), inputs, outputs, rows.stride(0), len(planes), widths,
        torch.get_num_threads(),
    )  # fmt: skip
