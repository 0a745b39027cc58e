"""What comparisons of kernels let pass: a chain of fp32 FMAs as long as any of theirs, and nothing that is wrong."""

import pytest
import torch
from kernel_harness import assert_no_worse
from torch import Tensor

LENGTHS = (64, 4096)  # of a sum


def operands(length: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, length, generator=random), torch.randn(50, length, generator=random)


def chained(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T by one FMA after the other, each rounded once: in fp64 a product of fp32 numbers is exact."""
    total = torch.zeros(len(x), len(weight))
    for k in range(x.shape[1]):
        total = (total.double() + x[:, k, None].double() * weight[None, :, k].double()).float()
    return total


def tf32(x: Tensor) -> Tensor:
    return (x.view(torch.int32) & ~0x1FFF).view(torch.float32)


def check(ours: Tensor, x: Tensor, weight: Tensor) -> None:
    answer = x.double() @ weight.double().T
    assert_no_worse(ours, answer, answer, x.shape[1])  # as if plain torch made no error


@pytest.mark.parametrize("length", LENGTHS)
def test_a_chain_of_fp32_operations_passes(length: int) -> None:
    x, weight = operands(length)
    check(chained(x, weight), x, weight)


@pytest.mark.parametrize("length", LENGTHS)
def test_operands_cut_to_tf32_fail(length: int) -> None:
    x, weight = operands(length)
    with pytest.raises(AssertionError, match="times what is allowed"):
        check(tf32(x) @ tf32(weight).T, x, weight)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_term_that_is_left_out_fails_and_so_does_no_number(length: int) -> None:
    x, weight = operands(length)
    for wrong in (x[:, 1:] @ weight[:, 1:].T, torch.full((3, 50), torch.nan)):
        with pytest.raises(AssertionError):
            check(wrong, x, weight)
