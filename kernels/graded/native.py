"""The call into cpp/graded_linear.cpp."""

import ctypes

import torch
from torch import Tensor

from ..native import Native
from ..planes.native import PLANE_ISAS
from .layout import PackedGraded

MAX_LEVELS = 8


class Layer(ctypes.Structure):
    """`struct GradedLayer` of cpp/graded_linear.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("rows", "scale", "worth", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "row_bytes", "levels")),
        ("widths", ctypes.c_int64 * MAX_LEVELS),
    ]


def layer_of(packed: PackedGraded, scale: Tensor, worth: Tensor, bias: Tensor | None) -> Layer:
    """The addresses of contiguous fp32 tensors: valid as long as they live."""
    return Layer(
        packed.rows.data_ptr(),
        scale.data_ptr(),
        worth.data_ptr(),
        None if bias is None else bias.data_ptr(),
        packed.inputs,
        packed.outputs,
        packed.rows.stride(0),
        len(packed.planes),
        (ctypes.c_int64 * MAX_LEVELS)(*packed.planes),
    )


def graded_linear_native(
    x: Tensor, layer: Layer, thresholds: Tensor, outputs: int, library: Native, isa: str
) -> tuple[Tensor, Tensor]:
    """(y [tokens, outputs] in the dtype of x, counts int64 [2, tokens]): graded_linear.GradedResult.

    The caller has checked the operands. Raises MemoryError when there is none to work in.
    """
    tokens = len(x)
    source, thresholds = x.detach().float().contiguous(), thresholds.contiguous()
    y, counts = source.new_empty(tokens, outputs), torch.empty(2, tokens, dtype=torch.int64)
    done = library.library.moesaic_graded_linear(
        ctypes.byref(layer),
        source.data_ptr(),
        thresholds.data_ptr(),
        y.data_ptr(),
        counts.data_ptr(),
        tokens,
        torch.get_num_threads(),
        PLANE_ISAS.index(isa),
    )
    if not done:
        raise MemoryError(f"no memory for the sums of {tokens} tokens of {outputs} values")
    return y if y.dtype == x.dtype else y.to(x.dtype), counts
