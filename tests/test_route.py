"""The router: scores of experts, one answer from torch, from Triton and from C++."""

from typing import Any

import kernel_harness
import pytest
import torch
from kernel_harness import library, on_threads
from torch import Tensor

from moesaic.kernels.native import ISAS
from moesaic.kernels.native_expert_ffn import activated_rows_native
from moesaic.kernels.route import (
    choose_route,
    route_cost,
    route_scores,
    route_scores_torch,
    route_triton,
    squareplus,
)

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
SHAPES = [(3, 36, 20, 10), (20, 70, 16, 33), (1, 64, 32, 64)]  # tokens, hidden, router width, experts
PAIRS = [(FP32, FP32), (FP32, BF16), (BF16, BF16), (BF16, FP32), (FP16, FP16)]  # activations, weights


def operands(
    shape: tuple[int, int, int, int] = (9, 36, 20, 10), dtypes: tuple[torch.dtype, torch.dtype] = (FP32, FP32)
) -> tuple[Tensor, Tensor, Tensor]:
    """x, first and second, the same in every run."""
    tokens, hidden, width, experts = shape
    random = torch.Generator().manual_seed(sum(shape))
    x, first, second = (
        torch.randn(size, generator=random) for size in ((tokens, hidden), (width, hidden), (experts, width))
    )
    return x.to(dtypes[0]), first.div(hidden**0.5).to(dtypes[1]), second.div(width**0.5).to(dtypes[1])


def assert_no_worse(ours: Tensor, x: Tensor, first: Tensor, second: Tensor) -> None:
    """Ours errs no more than plain torch does in the dtype of the weights."""
    answer = squareplus(squareplus(x.double() @ first.T.double()) @ second.T.double())
    wide = torch.promote_types(x.dtype, first.dtype)
    plain = squareplus(squareplus(x.to(wide) @ first.T.to(wide)) @ second.T.to(wide))
    assert ours.dtype == FP32
    kernel_harness.assert_no_worse(ours, answer, plain, first.shape[1] + second.shape[1])


def test_squareplus_is_above_zero_rises_and_keeps_its_precision() -> None:
    z = torch.linspace(-1e4, 1e4, 4001)
    exact = (z.double() + (z.double().square() + 4).sqrt()) / 2
    found = squareplus(z)
    assert (found > 0).all() and (found.diff() > 0).all()
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(squareplus(z.requires_grad_()).sum(), z)
    assert slope.isfinite().all() and (slope >= 0).all()


@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_no_worse_than_plain_torch(shape: tuple[int, int, int, int], dtypes: Any, device: str) -> None:
    case = operands(shape, dtypes)
    assert_no_worse(route_scores(*case), *case)
    assert_no_worse(route_scores_torch(*case), *case)
    assert_no_worse(route_triton(*(t.to(device) for t in case)).cpu(), *case)


def test_a_token_that_is_not_a_number_has_no_number_for_a_score(device: str) -> None:
    x, first, second = operands()
    x[2, 7] = torch.nan
    for scores in (route_scores(x, first, second), route_triton(*(t.to(device) for t in (x, first, second))).cpu()):
        assert scores[2].isnan().all() and scores.isnan().sum() == 10


@pytest.mark.parametrize("isa", ISAS[:3])
@pytest.mark.parametrize("dtypes", PAIRS[:2])
def test_scores_of_a_token_do_not_depend_on_its_neighbours(dtypes: Any, isa: str) -> None:
    x, first, second = operands((40, 70, 33, 21), dtypes)

    def scores(x: Tensor) -> Tensor:
        hidden = activated_rows_native(x, first, "squareplus", library(isa))
        found: Tensor = activated_rows_native(hidden, second, "squareplus", library(isa))
        return found

    alone = torch.cat([scores(row[None]) for row in x])
    for tokens in (2, 5, 6, 13, 40):
        assert torch.equal(scores(x[:tokens]), alone[:tokens])


def test_the_number_of_threads_changes_no_score() -> None:
    library()
    case = operands((8, 576, 256, 90))
    one, two, three = on_threads(lambda: route_scores(*case))
    assert torch.equal(one, two) and torch.equal(one, three)


def test_gradients_go_through_torch() -> None:
    x, first, second = operands()
    first.requires_grad_()
    (gradient,) = torch.autograd.grad(route_scores(x, first, second).sum(), first)
    assert gradient.any()


def test_no_tokens_give_no_rows(device: str) -> None:
    case = operands((0, 36, 20, 10))
    assert route_scores(*case).shape == (0, 10)
    assert route_triton(*(t.to(device) for t in case)).shape == (0, 10)


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize("shape", [(1, 2048, 128, 128), (300, 576, 64, 24)])
def test_the_door_is_no_worse_than_plain_torch_on_cuda(shape: tuple[int, int, int, int], dtypes: Any) -> None:
    case = operands(shape, dtypes)
    assert_no_worse(route_scores(*(t.cuda() for t in case)).cpu(), *case)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("cuda", 4096, BF16, False, None, True), "triton"),
        (("cuda", 1, BF16, True, None, True), "torch"),
        (("cpu", 1, FP32, False, "avx2", True), "native"),
        (("cpu", 4096, BF16, False, "avx512", True), "native"),
        (("cpu", 1, FP16, False, "avx512", True), "torch"),
        (("cpu", 8, FP32, False, "portable", False), "torch"),
        (("cpu", 0, FP32, False, "avx512", True), "torch"),
        (("cpu", 1, FP32, False, None, True), "torch"),
    ],
)
def test_the_choice_follows_from_device_size_and_weights(call: Any, answer: str) -> None:
    assert choose_route(*call) == answer


def test_the_cost_counts_both_matrices_once() -> None:
    cost = route_cost(tokens=2, hidden=10, router_width=4, experts=6, weight_bytes=2)
    assert (cost.bytes, cost.flops) == (4 * 16 * 2 + 2 * (40 + 6), 2 * 2 * 4 * 16)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(2, 4, dtype=torch.int8)}, TypeError, "x must be float32, bfloat16 or float16"),
        ({"x": torch.zeros(2, 4, device="meta")}, ValueError, "x is on meta, first on cpu"),
        ({"x": torch.zeros(2, 5)}, ValueError, r"first must be \[router_width, 5\] for this x, it is \[3, 4\]"),
        ({"first": torch.zeros(4, 3).T}, ValueError, "first must be contiguous"),
        ({"second": torch.zeros(7, 4)}, ValueError, r"second must be torch.float32 \[experts, 3\] for this first"),
        ({"second": torch.zeros(7, 3).half()}, ValueError, "it is torch.float16"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(changed: Any, error: type[Exception], message: str) -> None:
    good = {"x": torch.zeros(2, 4), "first": torch.zeros(3, 4), "second": torch.zeros(7, 3)}
    with pytest.raises(error, match=message):
        route_scores(**(good | changed))
