"""The graded linear: one function of integers, whoever computes it and whatever is beside a token."""

import pytest
import torch
from fake_gpu import fake_gpu
from graded_cases import ALL_PLANES, SHAPES, thresholds_of, tokens_of, weights_of
from kernel_harness import on_threads, plane_library, poison_new_tensors
from torch import Tensor

from moesaic.kernels import graded_linear as graded_linear_module
from moesaic.kernels.graded.bytes import MAX_INPUTS
from moesaic.kernels.graded.layout import PackedGraded, pack_graded
from moesaic.kernels.graded.native import graded_linear_native
from moesaic.kernels.graded_linear import (
    GradedResult,
    GradedWeights,
    _in_integers,
    choose_graded_linear,
    graded_levels,
    graded_linear,
    graded_linear_torch,
)
from moesaic.kernels.planes.native import PLANE_ISAS

PLANES = [(4, 2, 2), (2, 2, 4), (1, 1, 2, 4), (1,) * 8]
FULL = torch.zeros(1)


def same(found: GradedResult, expected: GradedResult) -> bool:
    return torch.equal(found.y, expected.y) and torch.equal(found.counts, expected.counts)


def by_native(x: Tensor, weights: GradedWeights, thresholds: Tensor, isa: str) -> GradedResult:
    loaded = plane_library(isa)
    return GradedResult(*graded_linear_native(x, weights.layer, thresholds, weights.packed.outputs, loaded, isa))


# --- one function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", PLANES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_door_gives_the_bits_of_the_judge(planes: tuple[int, ...], dtype: torch.dtype) -> None:
    for number, (count, inputs, outputs) in enumerate(SHAPES):
        weights, x = weights_of(inputs, outputs, planes, biased=number % 2 == 1), tokens_of(count, inputs).to(dtype)
        found, judged = (op(x, weights, thresholds_of(x, weights)) for op in (graded_linear, graded_linear_torch))
        assert same(found, judged) and found.y.dtype == dtype


@pytest.mark.parametrize("planes", PLANES, ids=str)
def test_integer_products_give_the_bits_of_the_judge(planes: tuple[int, ...]) -> None:
    for number, (count, inputs, outputs) in enumerate(SHAPES):
        weights, x = weights_of(inputs, outputs, planes, biased=number % 2 == 1), tokens_of(count, inputs)
        thresholds = thresholds_of(x, weights)
        if inputs > 1:  # torch's own product of rows of one is wrong
            assert same(_in_integers(x, weights, thresholds), graded_linear_torch(x, weights, thresholds))


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("planes", ALL_PLANES, ids=str)
def test_native_gives_the_bits_of_the_judge(isa: str, planes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_tensors(monkeypatch)
    for number, (count, inputs, outputs) in enumerate(SHAPES):
        weights, x = weights_of(inputs, outputs, planes, biased=number % 2 == 1), tokens_of(count, inputs)
        thresholds = thresholds_of(x, weights)
        assert same(by_native(x, weights, thresholds, isa), graded_linear_torch(x, weights, thresholds))


@pytest.mark.parametrize("isa", PLANE_ISAS)
def test_native_gives_the_bits_of_the_judge_on_any_number_of_threads(isa: str) -> None:
    weights, x = weights_of(300, 1000), tokens_of(19, 300)
    thresholds = thresholds_of(x, weights)
    judged = graded_linear_torch(x, weights, thresholds).y
    found = on_threads(lambda: by_native(x, weights, thresholds, isa).y)
    assert all(torch.equal(each, judged) for each in found)


def test_the_judge_is_the_equation() -> None:
    weights, x = weights_of(130, 70), tokens_of(5, 130)
    thresholds = thresholds_of(x, weights)
    step = x.abs().amax(1, keepdim=True) / 32639
    q, bits = torch.round(x / step).double(), torch.tensor([0, 4, 6, 8])[graded_levels(x, weights.worth, thresholds)]
    w = weights.packed.unpacked().double()
    unit = 2.0 ** (8 - bits).double().unsqueeze(1)  # [tokens, 1, inputs]
    middle = torch.where(bits.unsqueeze(1) == 0, 0.0, (w / unit).floor() * unit + (unit - 1) / 2)
    expected = (middle * q.unsqueeze(1)).sum(-1) * step.double() * weights.scale.double()
    torch.testing.assert_close(graded_linear_torch(x, weights, thresholds).y.double(), expected, rtol=1e-6, atol=1e-9)


def test_a_threshold_of_zero_is_the_whole_int8_linear() -> None:
    weights, x = weights_of(300, 90, biased=True), tokens_of(6, 300)
    assert weights.bias is not None
    result = graded_linear(x, weights, torch.zeros(6))
    exact = (x.double() @ weights.packed.unpacked().double().T) * weights.scale + weights.bias
    assert (result.y - exact).norm() < 1e-4 * exact.norm()
    assert torch.equal(result.bits, 8 * (x != 0).sum(1))


def test_every_token_has_the_same_bits_alone_and_in_any_batch() -> None:
    weights, x = weights_of(77, 140), tokens_of(20, 77)
    thresholds = thresholds_of(x, weights)
    together, judged = (op(x, weights, thresholds) for op in (graded_linear, graded_linear_torch))
    alone = [graded_linear(x[t : t + 1], weights, thresholds[t : t + 1]) for t in range(20)]
    assert torch.equal(torch.cat([each.y for each in alone]), together.y) and same(together, judged)
    assert torch.equal(torch.cat([each.bits for each in alone]), together.bits)


def test_weights_are_unpacked_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, x = weights_of(50, 700), tokens_of(30, 50)
    thresholds = thresholds_of(x, weights)
    whole = graded_linear(x, weights, thresholds)
    monkeypatch.setattr(graded_linear_module, "BLOCK_BYTES", 50 * 300)
    assert same(_in_integers(x, weights, thresholds), whole) and same(
        graded_linear_torch(x, weights, thresholds), whole
    )


def test_without_the_library_torch_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, x = weights_of(50, 70, biased=True), tokens_of(9, 50)
    thresholds = thresholds_of(x, weights)
    expected = graded_linear(x, weights, thresholds)
    monkeypatch.setattr(graded_linear_module, "native", lambda: None)
    assert same(graded_linear(x, weights, thresholds), expected)


def test_planes_of_other_widths_are_the_same_function_where_levels_are_the_same() -> None:
    x = tokens_of(3, 40)
    weights = weights_of(40, 60, (4, 4))
    finer = GradedWeights(weights_of(40, 60, (4, 2, 2)).packed, weights.scale, weights.worth[[0, 1, 1]])
    thresholds = thresholds_of(x, weights)
    assert same(graded_linear(x, weights, thresholds), graded_linear(x, finer, thresholds))


# --- how far --------------------------------------------------------------------------------------------------------


def test_a_higher_threshold_reads_no_more() -> None:
    weights, x = weights_of(200, 10), tokens_of(1, 200).expand(9, 200)
    thresholds = torch.tensor([-1.0, 0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, float("inf")])
    bits = graded_linear(x, weights, thresholds).bits
    assert (bits.diff() <= 0).all() and bits[0] == bits[1] == 8 * (x[0] != 0).sum() and bits[-1] == 0
    assert len(set(bits.tolist())) > 3


def test_bits_are_those_of_the_levels_that_pass() -> None:
    worth = torch.tensor([4.0, 2.0, 1.0])
    x, thresholds = torch.tensor([[0.25, -0.3, 0.6, 1.5]]), torch.tensor([1.0])
    assert graded_levels(x, worth, thresholds).tolist() == [[0, 1, 2, 3]]
    weights = GradedWeights(weights_of(4, 3).packed, torch.ones(3), worth)
    assert graded_linear(x, weights, thresholds).counts.tolist() == [[3], [0 + 4 + 6 + 8]]


def test_full_reads_inputs_that_are_worth_nothing() -> None:
    weights = weights_of(8, 3)
    plain = GradedWeights(weights.packed, weights.scale, torch.zeros_like(weights.worth))
    x = torch.full((1, 8), 1e-30)
    assert same(graded_linear(x, plain, FULL), graded_linear(x, weights, FULL))


# --- input that is no input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [True, False], ids=["biased", "plain"])
def test_a_token_of_zeros_gives_the_bias_and_reads_nothing(biased: bool) -> None:
    weights = weights_of(9, 5, biased=biased)
    result = graded_linear(torch.zeros(2, 9), weights, torch.tensor([0.0, -1.0]))
    assert torch.equal(result.y, (torch.zeros(5) if weights.bias is None else weights.bias).expand(2, 5))
    assert result.bits.tolist() == [0, 0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_is_not_finite_gives_no_numbers_and_harms_no_other(value: float) -> None:
    weights, x = weights_of(40, 70, biased=True), tokens_of(3, 40)
    clean = graded_linear(x, weights, torch.zeros(3))
    x[1, 7] = value
    result = graded_linear(x, weights, torch.zeros(3))
    assert result.y[1].isnan().all() and result.bits[1] == 0
    assert torch.equal(result.y[[0, 2]], clean.y[[0, 2]])


def test_a_threshold_that_is_no_number_gives_no_numbers() -> None:
    weights, x = weights_of(40, 70), tokens_of(2, 40)
    result = graded_linear(x, weights, torch.tensor([torch.nan, 0.0]))
    assert result.y[0].isnan().all() and result.y[1].isfinite().all() and result.bits[0] == 0


@pytest.mark.parametrize("size", [1e-45, 1e-38, 3e-34, 1e-20, 3e38])
def test_tokens_of_any_size_are_numbers(size: float) -> None:
    weights, x = weights_of(40, 70), tokens_of(1, 40).clamp(-1, 1)
    x[0, 3] = 1.0
    found, judged = (op(x * size, weights, FULL) for op in (graded_linear, graded_linear_torch))
    assert same(found, judged) and found.y.isfinite().all()


def test_no_tokens_give_no_rows() -> None:
    result = graded_linear(torch.zeros(0, 9), weights_of(9, 5), torch.zeros(0))
    assert result.y.shape == (0, 5) and result.bits.shape == (0,)


@pytest.mark.parametrize("isa", PLANE_ISAS)
def test_the_largest_sums_are_exact(isa: str) -> None:
    for value in (-128, 127):
        packed = pack_graded(torch.full((64, MAX_INPUTS), value, dtype=torch.int8))
        weights = GradedWeights(packed, torch.ones(64), torch.ones(3))
        x = torch.ones(2, MAX_INPUTS) * torch.tensor([[1.0], [-1.0]])
        judged = graded_linear_torch(x, weights, torch.zeros(2))
        assert same(by_native(x, weights, torch.zeros(2), isa), judged)
        assert same(_in_integers(x, weights, torch.zeros(2)), judged)


def operands() -> tuple[Tensor, GradedWeights, Tensor]:
    return torch.zeros(2, 9), weights_of(9, 5), torch.zeros(2)


def test_operands_that_do_not_fit_are_refused() -> None:
    x, weights, thresholds = operands()
    with pytest.raises(ValueError, match=r"x must be \[tokens, 9\] for these weights, it is \[2, 8\]"):
        graded_linear(x[:, :8], weights, thresholds)
    with pytest.raises(ValueError, match=r"x must be \[tokens, 9\] for these weights, it is \[9\]"):
        graded_linear(x[0], weights, thresholds)
    with pytest.raises(TypeError, match="x must be floating point, it is torch.int64"):
        graded_linear(x.long(), weights, thresholds)
    with pytest.raises(ValueError, match=r"thresholds must be \[2\], it is \[1\]"):
        graded_linear(x, weights, thresholds[:1])
    with pytest.raises(TypeError, match="thresholds must be torch.float32, it is torch.float64"):
        graded_linear(x, weights, thresholds.double())


def test_weights_that_do_not_fit_together_are_refused() -> None:
    _, weights, _ = operands()
    packed: PackedGraded = weights.packed
    with pytest.raises(ValueError, match=r"scale must be \[5\], it is \[4\]"):
        GradedWeights(packed, torch.ones(4), weights.worth)
    with pytest.raises(ValueError, match=r"worth must be \[3\], it is \[2\]"):
        GradedWeights(packed, weights.scale, weights.worth[:2])
    with pytest.raises(ValueError, match=r"bias must be \[5\], it is \[6\]"):
        GradedWeights(packed, weights.scale, weights.worth, torch.zeros(6))
    with pytest.raises(TypeError, match="bias must be floating point, it is torch.int64"):
        GradedWeights(packed, weights.scale, weights.worth, torch.zeros(5, dtype=torch.int64))


# --- which way ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 8, 9, 512])
def test_the_library_answers_where_it_has_vector_instructions(tokens: int) -> None:
    assert choose_graded_linear("cpu", tokens, 37, 7, "avx2") == "native"
    assert choose_graded_linear("cpu", tokens, 37, 7, "avx512_vnni") == "native"
    assert choose_graded_linear("cpu", tokens, 37, 7, "portable") == "integers"
    assert choose_graded_linear("cpu", tokens, 37, 7, None) == "integers"
    assert choose_graded_linear("cuda", tokens, 64, 8, None) == "integers"
    assert choose_graded_linear("cuda", tokens, 37, 7, None, triton=True) == "triton"


def test_whole_numbers_in_fp64_answer_where_nothing_else_can() -> None:
    unfit = [("cuda", 5, 37, 8), ("cuda", 5, 64, 7), ("cpu", 0, 8, 8)]
    assert {choose_graded_linear(*case, None) for case in unfit} == {"torch"}


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 72), (37, 7)])
def test_it_has_one_form_on_a_gpu(inputs: int, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graded_linear_module, "HAS_TRITON", False)  # a launch is no operation of torch
    with fake_gpu(), torch.device("cuda"):
        packed = PackedGraded(torch.empty(inputs, 128, dtype=torch.uint8), outputs)
        weights = GradedWeights(packed, torch.empty(outputs), torch.empty(3), torch.empty(outputs))
        result = graded_linear(torch.empty(5, inputs, dtype=torch.bfloat16), weights, torch.empty(5))
        assert result.y.device.type == "cuda" and result.y.shape == (5, outputs) and result.bits.shape == (5,)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"),
    [(1, 576, 960), (2, 2048, 4160), (4, 900, 72), (8, 1536, 576), (33, 64, 72), (5, 37, 17)],
)
def test_the_result_on_cuda_has_the_bits_of_the_cpu(tokens: int, inputs: int, outputs: int) -> None:
    weights, x = weights_of(inputs, outputs, biased=True), tokens_of(tokens, inputs)
    thresholds = thresholds_of(x, weights)
    bias = None if weights.bias is None else weights.bias.cuda()
    there = GradedWeights(weights.packed.to("cuda"), weights.scale.cuda(), weights.worth.cuda(), bias)
    found, here = graded_linear(x.cuda(), there, thresholds.cuda()), graded_linear(x, weights, thresholds)
    assert torch.equal(found.y.cpu(), here.y) and torch.equal(found.bits.cpu(), here.bits)
