"""What tests of kernels share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moesaic.kernels.native import ISAS, Native, native


def library(isa: str = "") -> Native:
    """The C++ library, held to an instruction set, or a skip."""
    loaded = native()
    if loaded is None:
        pytest.skip("the C++ library cannot be built here")
    if isa and ISAS.index(isa) > loaded.isa:
        pytest.skip(f"this processor has no {isa}")
    return Native(loaded.library, ISAS.index(isa)) if isa else loaded


def on_threads(call: Callable[[], Tensor], counts: tuple[int, ...] = (1, 2, 3)) -> list[Tensor]:
    """What it gives on each of these numbers of threads."""
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
