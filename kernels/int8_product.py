"""The product of two matrices of int8, exact in int32, by what the machine is quick at."""

import functools

import torch
from torch import Tensor
from torch.nn import functional

CUDA_ROWS = 32  # fewer rows are padded: CUDA's integer product takes more than 16
EXACT_INPUTS = 1 << 10  # 128 * 128 * 2**10 = 2**24: fp32 holds every sum of so many products


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
    total = torch.zeros(len(rows), weight.shape[1], dtype=torch.int32)
    with torch.autocast("cpu", enabled=False):
        for some in (slice(begin, begin + EXACT_INPUTS) for begin in range(0, weight.shape[0], EXACT_INPUTS)):
            total += (rows[:, some].float() @ weight[some].float()).int()
    return total


@functools.cache
def cpu_has_integers() -> bool:
    """Whether torch's integer product is quick on this CPU, as it is with AVX-512, and exact: without VNNI sums of two
    may be cut off at 16 bits.
    """
    most = torch.full((32, 64), 127, dtype=torch.int8)
    exact = bool((torch._int_mm(most, most.t()) == 64 * 127 * 127).all())
    return exact and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
