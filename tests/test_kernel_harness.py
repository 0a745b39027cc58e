"""What comparisons of kernels let pass: a chain of fp32 FMAs as long as any of theirs, and nothing that is wrong."""

import numpy as np
import pytest
import torch
from instructions import executed
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


@pytest.mark.parametrize(
    ("assembly", "operands", "result"),
    [
        ("prmt.b32 $0, $1, $2, 0x7362;", [0x44332211, 0x08070605], 0x08440733),
        ("lop3.b32 $0, $1, $2, 0xf0f0f0f0, 0xe4;", [0x12345678, 0x0BCDEF09], 0x1B3D5F79),
        ("dp4a.u32.s32 $0, $1, $2, $3;", [0x010203FF, 0x05FF0102, 7], 7 + 255 * 2 + 3 * 1 - 2 * 1 + 1 * 5),
        ("dp2a.lo.s32.u32 $0, $1, $2, $3;", [0x0003FFFE, 0x0A0B0CFF, 1], 1 - 2 * 255 + 3 * 12),
        ("dp2a.hi.s32.u32 $0, $1, $2, $3;", [0x0003FFFE, 0x0A0B0CFF, 1], 1 - 2 * 11 + 3 * 10),
    ],
)
def test_instructions_are_those_of_the_manual(assembly: str, operands: list[int], result: int) -> None:
    words = [np.array([each], dtype=np.int64).astype(np.int32) for each in operands]
    assert executed(assembly, words).tolist() == [result]
