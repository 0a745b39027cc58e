"""What tests of kernels share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moesaic.kernels.native import ISAS, Native, native
from moesaic.kernels.planes.native import PLANE_ISAS, plane_isa


def library(isa: str = "") -> Native:
    """The C++ library, held to an instruction set, or a skip."""
    loaded = native()
    if loaded is None:
        pytest.skip("the C++ library cannot be built here")
    if isa and ISAS.index(isa) > loaded.isa:
        pytest.skip(f"this processor has no {isa}")
    return Native(loaded.library, ISAS.index(isa)) if isa else loaded


def plane_library(isa: str) -> Native:
    """The same for an instruction set of PLANE_ISAS, the sets of integer kernels."""
    loaded = library()
    if PLANE_ISAS.index(isa) > PLANE_ISAS.index(plane_isa(loaded)):
        pytest.skip(f"this processor has no {isa}")
    return loaded


FP32_ROUNDING = 2.0**-24  # of one operation, relative


def assert_no_worse(ours: Tensor, answer: Tensor, plain: Tensor, terms: int) -> None:
    """Against the fp64 answer we may err twice as much as plain torch does, and as a chain of fp32 FMAs may.

    terms: K, the longest sum behind an element; of sums that follow one another, all of them. Such a chain rounds its
    running sum K times, each time by up to FP32_ROUNDING of it. For products of random signs the running sum grows as
    sqrt(k), so that the errors, which are independent and about 0.4 of the largest each, add to 0.4 sqrt(K^2 / 2) of
    one product's size, against sqrt(K) of the answer: 0.28 sqrt(K) roundings. sqrt(K) of them is 3.5 times that, 4e-6
    at K = 4,096, where operands cut to tf32 err by 3e-4 and a term that is left out by 1 / sqrt(K) = 1.6e-2. Torch sums
    in blocks, whose error hardly grows with K, so its own alone is no measure of a chain.
    """
    error = (ours.cpu().double() - answer).norm()
    allowed = 2 * (plain.cpu().double() - answer).norm() + terms**0.5 * FP32_ROUNDING * answer.norm()
    assert error <= allowed, f"the error is {float(error / allowed):.3g} times what is allowed"


def on_threads(call: Callable[[], Tensor], counts: tuple[int, ...] = (1, 2, 3)) -> list[Tensor]:
    """What a call gives on each of these numbers of threads."""
    before, answers = torch.get_num_threads(), []
    for count in counts:
        torch.set_num_threads(count)
        answers.append(call())
    torch.set_num_threads(before)
    return answers


def poison_new_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on results start as NaN, so that an element that is left out shows."""
    new_empty = torch.Tensor.new_empty

    def poisoned(*size: Any, **options: Any) -> Tensor:
        fresh = new_empty(*size, **options)
        return fresh.fill_(torch.nan) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
