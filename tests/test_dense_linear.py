"""The dense linear under unlike dtypes: fp32 arithmetic on bf16 weights, read as bf16."""

import pytest
import torch
from kernel_harness import assert_no_worse, library

from moesaic.kernels.dense_linear import (
    choose_dense_linear,
    dense_linear,
    dense_linear_torch,
    keeps_bf16,
)
from moesaic.kernels.native import ISAS
from moesaic.kernels.native_linear import linear_native

SHAPES = [(3, 123, 5), (17, 40, 33), (1, 16, 1), (1, 64, 64), (40, 96, 70), (300, 2100, 9)]  # tokens, inputs, outputs


def operands(tokens: int, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(tokens * inputs + outputs)
    weight = torch.randn(outputs, inputs, generator=random).bfloat16()
    return torch.randn(tokens, inputs, generator=random), weight, torch.randn(outputs, generator=random)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sum_is_that_of_fp32(shape: tuple[int, int, int], isa: str) -> None:
    x, weight, bias = operands(*shape)
    exact = x.double() @ weight.double().T + bias.double()
    plain = dense_linear_torch(x, weight, bias)
    found = linear_native(x, weight, None, bias, library(isa))
    assert_no_worse(found, exact, plain, shape[1])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, (8, 4096, 4096)], ids=str)
def test_the_sum_on_cuda_is_that_of_fp32(shape: tuple[int, int, int]) -> None:
    x, weight, bias = operands(*shape)
    exact = x.double() @ weight.double().T + bias.double()
    found = dense_linear(x.cuda(), weight.cuda(), bias.cuda())
    assert_no_worse(found, exact, dense_linear_torch(x, weight, bias), shape[1])


@pytest.mark.parametrize("isa", ISAS)
def test_a_row_alone_is_bit_equal_to_the_row_in_a_batch(isa: str) -> None:
    x, weight, bias = operands(70, 123, 37)
    whole = linear_native(x, weight, None, bias, library(isa))
    for count in (1, 2, 6, 7, 23):
        assert torch.equal(linear_native(x[:count], weight, None, bias, library(isa)), whole[:count])


@pytest.mark.parametrize("isa", ISAS[:3])
def test_bf16_activations_meet_bf16_weights(isa: str) -> None:
    x, weight, bias = operands(9, 123, 37)
    found = linear_native(x.bfloat16(), weight, None, bias, library(isa))
    exact = x.bfloat16().double() @ weight.double().T + bias.double()
    assert found.dtype == torch.bfloat16
    assert (found - exact).norm() <= 4e-3 * exact.norm()


def test_equal_dtypes_are_left_to_torch() -> None:
    x, weight, bias = operands(4, 12, 5)
    assert torch.equal(dense_linear(x, weight.float(), bias), torch.nn.functional.linear(x, weight.float(), bias))


def test_gradients_go_through_torch() -> None:
    x, weight, bias = operands(4, 12, 5)
    (gradient,) = torch.autograd.grad(dense_linear(x.requires_grad_(), weight, bias).sum(), x)
    assert torch.allclose(gradient, weight.float().sum(0).expand_as(x))


def test_the_choice_needs_narrow_weights_and_a_fast_instruction_set() -> None:
    fp32, bf16, fp16 = torch.float32, torch.bfloat16, torch.float16
    assert choose_dense_linear(fp32, bf16, False, "avx2") == "native"
    for case in ((fp32, fp16, False, "avx2"), (fp32, bf16, True, "avx2"), (fp32, bf16, False, "portable")):
        assert choose_dense_linear(*case) == "torch"
    assert choose_dense_linear(fp32, bf16, False, None) == "torch"
    assert not keeps_bf16(torch.device("meta"))


def test_no_tokens_give_no_rows_and_wrong_shapes_are_refused() -> None:
    x, weight, bias = operands(4, 12, 5)
    assert dense_linear(x[:0], weight, bias).shape == (0, 5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        dense_linear(x[:, :7], weight, bias)
