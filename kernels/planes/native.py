"""The call into cpp/plane_ffn.cpp."""

import ctypes
import functools

import torch
from torch import Tensor

from ..native import Native
from ..native_expert_ffn import CODES
from .layout import PackedPlanes

PLANE_ISAS = ("portable", "avx2", "avx512_vnni")  # the order of `enum PlaneIsa` in cpp/plane_isa.h


@functools.cache
def plane_isa(library: Native) -> str:
    """The best of PLANE_ISAS that this processor has."""
    return PLANE_ISAS[library.library.moesaic_plane_isa()]


def plane_ffn_native(
    x: Tensor,
    packed: PackedPlanes,
    thresholds: Tensor,
    activation: str,
    library: Native,
    isa: str,
    together: bool = False,
) -> tuple[Tensor, Tensor]:
    """(y [tokens, hidden] in the dtype of x, counts of active and fine int64 [2, tokens]).

    The caller has checked the operands. Raises MemoryError when there is none to work in.
    """
    tokens, hidden = x.shape
    source, thresholds = x.float().contiguous(), thresholds.contiguous()
    y, counts = source.new_empty(tokens, hidden), torch.empty(2, tokens, dtype=torch.int64)
    done = library.library.moesaic_plane_ffn(
        ctypes.byref(packed.layer),
        source.data_ptr(),
        thresholds.data_ptr(),
        y.data_ptr(),
        counts.data_ptr(),
        counts.data_ptr() + 8 * tokens,
        tokens,
        torch.get_num_threads(),
        CODES.index(activation),
        PLANE_ISAS.index(isa),
        together,
    )
    if not done:
        raise MemoryError(f"no memory for the sums of {tokens} tokens of {hidden} values")
    return y.to(x.dtype), counts
