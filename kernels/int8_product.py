"""The product of two matrices of int8, exact in int32, by what the machine is quick at."""

import functools

import torch
from torch import Tensor
from torch.nn import functional

CUDA_ROWS = 32  # fewer rows are padded: CUDA's integer product takes more than 16
EXACT_INPUTS = 1 << 10  # 128 * 128 * 2**10 = 2**24: fp32 holds every sum of so many products
_WIDENED = 1 << 18  # weights at a time in fp32, which a cache holds


def int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """sum_k rows[t, k] weight[k, n] in int32 [tokens, outputs]; both int8, [tokens, inputs] and [inputs, outputs].

    On CUDA 8 must divide inputs and outputs. A CPU without quick integers multiplies in fp32, parts of the inputs at a
    time, since torch's own product took 20 times as long there; so does one input, whose columns torch takes for rows.
    """
    if rows.is_cuda:
        padded = functional.pad(rows, (0, 0, 0, max(0, CUDA_ROWS - len(rows))))
        return torch._int_mm(padded.contiguous(), weight)[: len(rows)]
    if weight.shape[0] > 1 and cpu_has_integers():
        return torch._int_mm(rows.contiguous(), weight)
    return _in_parts(rows.float(), weight)


def _in_parts(rows: Tensor, weight: Tensor) -> Tensor:
    inputs, outputs = weight.shape
    total = torch.zeros(len(rows), outputs, dtype=torch.int32)
    with torch.autocast("cpu", enabled=False):
        for some in _slices(inputs, EXACT_INPUTS):
            for others in _slices(outputs, max(1, _WIDENED // min(inputs, EXACT_INPUTS))):
                total[:, others] += (rows[:, some] @ weight[some, others].float()).int()
    return total


def _slices(count: int, step: int) -> list[slice]:
    return [slice(begin, begin + step) for begin in range(0, count, step)]


@functools.cache
def cpu_has_integers() -> bool:
    """Whether torch's integer product is quick on this CPU, as it is with AVX-512, and exact: without VNNI sums of two
    may be cut off at 16 bits.
    """
    most = torch.full((32, 64), 127, dtype=torch.int8)
    exact = bool((torch._int_mm(most, most.t()) == 64 * 127 * 127).all())
    return exact and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
