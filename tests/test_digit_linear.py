"""The int8 linear of two digits: exact integers, the same bits everywhere."""

import copy

import pytest
import torch
from kernel_harness import plane_library, poison_new_tensors
from torch import Tensor

from moesaic.kernels.device_cost import Product, shipped_devices
from moesaic.kernels.digit_linear import (
    DigitWeights,
    choose_digit_linear,
    digit_linear,
    digit_linear_cost,
    digit_linear_native,
    digit_linear_torch,
    pack_digits,
)
from moesaic.kernels.digit_matrix import digit_matrix_triton
from moesaic.kernels.digit_triton import MOST_TOKENS, digit_linear_triton, digit_tile
from moesaic.kernels.graded.layout import pack_graded
from moesaic.kernels.graded.lists import CHUNK
from moesaic.kernels.graded_linear import GradedWeights, graded_linear_torch
from moesaic.kernels.int8_dynamic_linear import int8_dynamic_linear_torch
from moesaic.kernels.planes.native import PLANE_ISAS
from moesaic.models.threads import torch_threads

SHAPES = [(16, 4), (1, 1), (17, 5), (576, 576), (100, 1536), (3072, 64), (40, 1027)]  # outputs, inputs


def some(
    outputs: int, inputs: int, tokens: int = 1, bias: bool = False, digits: int = 2
) -> tuple[Tensor, DigitWeights]:
    generator = torch.Generator().manual_seed(outputs * 7 + inputs)
    weight = torch.randint(-128, 128, (outputs, inputs), dtype=torch.int8, generator=generator)
    scale, offset = torch.rand(outputs, generator=generator), torch.randn(outputs, generator=generator)
    packed = pack_digits(weight, scale, offset if bias else None, digits)
    return torch.randn(tokens, inputs, generator=generator), packed


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weights_are_the_weights(shape: tuple[int, int]) -> None:
    weight = torch.randint(-128, 128, shape, dtype=torch.int8)
    packed = pack_digits(weight, torch.ones(shape[0]))
    assert packed.unpacked().equal(weight) and packed.unpacked(slice(0, 3)).equal(weight[:3])
    rows = torch.randint(0, shape[0], (5,))
    assert packed.at(rows).equal(weight[rows])


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    with pytest.raises(IndexError, match="rows 0 to 4"):
        pack_digits(torch.zeros(5, 3, dtype=torch.int8), torch.ones(5)).at(torch.tensor([0, row]))


def test_packed_weights_can_be_copied() -> None:
    x, weights = some(40, 12, 2)
    before = digit_linear(x, weights)
    assert digit_linear(x, copy.deepcopy(weights)).equal(before)


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 7, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_judge_bit_for_bit(
    shape: tuple[int, int], tokens: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesaic.kernels.digit_linear.plane_isa", lambda _: isa)
    x, weights = some(*shape, tokens, bias=tokens % 2 == 0)
    assert digit_linear_native(x, weights, plane_library(isa)).equal(digit_linear_torch(x, weights))


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("tokens", [1, 2, 5, 13])
@pytest.mark.parametrize("shape", [(1, 1), (17, 5), (40, 1027)])
def test_with_one_digit_it_is_the_linear_of_w8a8_bit_for_bit(
    shape: tuple[int, int], tokens: int, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesaic.kernels.digit_linear.plane_isa", lambda _: isa)
    x, weights = some(*shape, tokens, bias=tokens % 2 == 0, digits=1)
    judge = int8_dynamic_linear_torch(x, weights.unpacked(), weights.scale, weights.bias)
    assert digit_linear_native(x, weights, plane_library(isa)).equal(judge)
    assert digit_linear_torch(x, weights).equal(judge)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 0.0])
def test_with_one_digit_a_row_that_is_no_number_or_zero_harms_not_the_one_beside_it(bad: float) -> None:
    x, weights = some(40, 32, 4, bias=True, digits=1)
    x[1] = bad
    found, judge = digit_linear(x, weights), digit_linear_torch(x, weights)
    assert found[[0, 2, 3]].equal(judge[[0, 2, 3]]) and (found[1].isnan().all() if bad else found[1].equal(judge[1]))


def test_it_is_the_graded_linear_at_the_full_tier() -> None:
    x, weights = some(300, 200, 4)
    graded = GradedWeights(pack_graded(weights.unpacked()), weights.scale, torch.ones(3))
    assert digit_linear(x, weights).equal(graded_linear_torch(x, graded, torch.zeros(4)).y)


def test_a_row_has_the_same_bits_alone_and_on_any_number_of_threads() -> None:
    x, weights = some(1000, 576, 33)
    together = digit_linear(x, weights)
    with torch_threads(1):
        assert torch.cat([digit_linear(row, weights).unsqueeze(0) for row in x]).equal(together)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_a_row_that_is_no_number_harms_no_other(bad: float) -> None:
    x, weights = some(64, 32, 3)
    alone, x[1, 5] = digit_linear(x[2], weights), bad
    found = digit_linear(x, weights)
    assert found[1].isnan().all() and found[2].equal(alone) and not found[0].isnan().any()


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1.0, 1e38])
def test_numbers_of_any_size_are_kept(size: float) -> None:
    x, weights = some(32, 64, 2, bias=True)
    found, judge = digit_linear(x * size, weights), digit_linear_torch(x * size, weights)
    assert found.equal(judge) and (size > 0 or found.equal(weights.bias.expand(2, -1)))  # type: ignore[union-attr]


def test_it_is_near_to_the_product_in_floating_point() -> None:
    x, weights = some(200, 576, 8)
    exact = x.double() @ (weights.unpacked().double() * weights.scale.double().unsqueeze(1)).T
    assert (digit_linear(x, weights) - exact).norm() < 3e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_any_leading_shape_and_dtype(dtype: torch.dtype) -> None:
    x, weights = some(20, 12, 6)
    found = digit_linear(x.to(dtype).view(2, 3, 12), weights)
    assert found.shape == (2, 3, 20) and found.dtype == dtype
    assert digit_linear(x[:0], weights).shape == (0, 20)


@pytest.mark.parametrize(
    ("weight", "scale", "said"),
    [
        (torch.zeros(2, 3), torch.ones(2), "must be int8"),
        (torch.zeros(2, 0, dtype=torch.int8), torch.ones(2), "1 to 65536 inputs"),
        (torch.zeros(2, 3, dtype=torch.int8), torch.ones(3), "scale must be"),
    ],
)
def test_weights_that_no_layout_takes_are_refused(weight: Tensor, scale: Tensor, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        pack_digits(weight, scale)


@pytest.mark.parametrize(("x", "said"), [(torch.zeros(2, 5), r"\[..., 4\]"), (torch.zeros(4).long(), "floating")])
def test_activations_that_do_not_fit_are_refused(x: Tensor, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        digit_linear(x, pack_digits(torch.zeros(2, 4, dtype=torch.int8), torch.ones(2)))


# --- on a GPU -------------------------------------------------------------------------------------------------------


def by_triton(x: Tensor, weights: DigitWeights, device: str) -> Tensor:
    bias = None if weights.bias is None else weights.bias.to(device)
    return digit_linear_triton(x.to(device), weights.tiles.to(device), weights.scale.to(device), bias).cpu()


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs", "dtype"),
    [
        (3, 37, 17, torch.bfloat16),
        (1, CHUNK + 9, 40, torch.float32),
        (8, 5, 65, torch.float16),
        (2, 64, 33, torch.float64),
        (1, 1, 1, torch.float32),
    ],
    ids=str,
)
def test_the_kernels_give_the_bits_of_the_judge(
    tokens: int, inputs: int, outputs: int, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights = some(outputs, inputs, tokens, bias=tokens > 1)
    poison_new_tensors(monkeypatch)
    found, judge = by_triton(x.to(dtype), weights, device), digit_linear_torch(x.to(dtype), weights)
    assert found.equal(judge) and found.dtype == dtype


def test_two_blocks_of_a_program_give_the_bits_of_the_judge(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesaic.kernels.digit_triton._PROGRAMS", 4)
    x, weights = some(70, 12, 2, bias=True)
    assert digit_tile(2, 3, 1).blocks == 2 and by_triton(x, weights, device).equal(digit_linear_torch(x, weights))


def test_the_largest_sums_of_a_chunk_are_exact(device: str) -> None:
    weights = pack_digits(torch.full((1, CHUNK), -128).to(torch.int8), torch.ones(1))
    x = torch.ones(2, CHUNK) * torch.tensor([[1.0], [-1.0]])
    assert by_triton(x, weights, device).equal(digit_linear_torch(x, weights))


def test_a_row_that_is_no_number_or_zero_is_told_by_the_kernels_too(device: str) -> None:
    x, weights = some(5, 6, 3, bias=True)
    x[0, 2], x[1] = torch.nan, 0.0
    found = by_triton(x, weights, device)
    assert found[0].isnan().all() and found[1:].equal(digit_linear_torch(x, weights)[1:])


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs", "dtype"),
    [(9, 37, 17, torch.bfloat16), (33, 130, 70, torch.float32), (66, 6, 33, torch.float16)],
    ids=str,
)
def test_many_rows_have_the_bits_of_the_judge(
    tokens: int, inputs: int, outputs: int, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights = some(outputs, inputs, tokens, bias=tokens > 9)
    bias = None if weights.bias is None else weights.bias.to(device)
    x[4], x[5, 2] = 0.0, torch.inf
    poison_new_tensors(monkeypatch)
    found = digit_matrix_triton(x.to(dtype).to(device), weights.tiles.to(device), weights.scale.to(device), bias).cpu()
    judge = digit_linear_torch(x.to(dtype), weights)
    assert found[5].isnan().all() and found.nan_to_num(7.0).equal(judge.nan_to_num(7.0)) and found.dtype == dtype


def test_the_largest_sums_of_many_rows_are_exact(device: str) -> None:
    weights = pack_digits(torch.full((2, 40), -128).to(torch.int8), torch.ones(2))
    x = torch.ones(12, 40)
    found = digit_matrix_triton(x.to(device), weights.tiles.to(device), weights.scale.to(device), None).cpu()
    assert found.equal(digit_linear_torch(x, weights))


def test_any_number_of_tokens_on_a_gpu_has_a_kernel() -> None:
    some, h200 = [Product(n, 768, 3072) for n in (0, 1, MOST_TOKENS, MOST_TOKENS + 1)], shipped_devices()["H200"]
    found = [choose_digit_linear("cuda", each, False, True, h200) for each in some]
    assert found == ["torch", "triton", "triton", "matrix"]
    assert choose_digit_linear("cuda", some[1], False, False, h200) == "torch"
    assert choose_digit_linear("cpu", some[1], False, True) == "torch"
    assert choose_digit_linear("cpu", some[1], True, True) == "native"


def test_few_tokens_of_a_large_weight_go_to_tensor_cores_where_those_are_sooner_done() -> None:
    h200 = shipped_devices()["H200"]
    found = [choose_digit_linear("cuda", Product(n, 4096, 14336), False, True, h200) for n in (1, 4, 8)]
    assert found == ["triton", "triton", "matrix"]


def test_programs_are_enough_to_keep_memory_busy() -> None:
    assert [digit_tile(1, blocks, quads).splits for blocks, quads in ((18, 144), (128, 1024), (896, 1024))] == [9, 8, 3]
    assert [digit_tile(1, blocks, 16).blocks for blocks in (18, 896)] == [1, 2]


def test_whole_blocks_of_weights_are_moved_once() -> None:
    assert digit_linear_cost(2, 6, 33, 2).bytes == 64 * 8 + 4 * 33 + 2 * 2 * (6 + 33)
