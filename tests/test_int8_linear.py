"""The int8 linear: one answer from torch, from Triton and from C++, in every dtype and shape."""

import os
import subprocess
import sys

import kernel_harness
import pytest
import torch
from kernel_harness import library, on_threads, poison_new_tensors

from moesaic.kernels.int8_linear import (
    choose_int8_linear,
    int8_linear,
    int8_linear_config,
    int8_linear_cost,
    int8_linear_native,
    int8_linear_torch,
    int8_linear_triton,
)
from moesaic.kernels.native import ISAS

SHAPES = [(3, 123, 5), (17, 40, 33), (1, 16, 1), (1, 64, 64), (40, 96, 70)]  # tokens, inputs, outputs
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def operands(tokens: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float32) -> Operands:
    """x, weight, scale and bias, the same in every run."""
    random = torch.Generator().manual_seed(tokens * inputs + outputs)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=random, dtype=torch.int8)
    x = torch.randn(tokens, inputs, generator=random).to(dtype)
    scale, bias = torch.rand(outputs, generator=random) / 127, torch.randn(outputs, generator=random)
    return x, weight, scale, bias


def exact(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    dequantized = weight.double() * scale.double()[:, None]
    return x.double() @ dequantized.T + bias.double()


def assert_no_worse(ours: torch.Tensor, x: torch.Tensor, *rest: torch.Tensor) -> None:
    """Ours errs no more than plain torch does in this dtype."""
    weight, scale, bias = rest
    plain = torch.nn.functional.linear(x, (weight * scale[:, None]).to(x.dtype), bias.to(x.dtype))
    assert ours.dtype == x.dtype
    kernel_harness.assert_no_worse(ours, exact(x, weight, scale, bias), plain, x.shape[-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_gives_the_dequantized_product(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    case = operands(*shape, dtype)
    assert_no_worse(int8_linear_torch(*case), *case)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_is_no_worse_than_plain_torch(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    case = operands(*shape, dtype)
    assert_no_worse(int8_linear_triton(*(t.to(device) for t in case)), *case)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_no_worse_than_plain_torch(shape: tuple[int, int, int], dtype: torch.dtype, isa: str) -> None:
    case = operands(*shape, dtype)
    assert_no_worse(int8_linear_native(*case, library(isa)), *case)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 576, 49152), (300, 1536, 576), (8, 4096, 4096), (512, 576, 8192)])
def test_the_door_is_no_worse_than_plain_torch_on_cuda(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    case = operands(*shape, dtype)
    assert_no_worse(int8_linear(*(t.cuda() for t in case)), *case)


@pytest.mark.gpu
def test_a_cuda_graph_replays_the_kernel_on_new_activations() -> None:
    x, *rest = (t.cuda() for t in operands(8, 576, 576))
    int8_linear(x, *rest)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = int8_linear(x, *rest)
    x.normal_()
    graph.replay()
    assert torch.equal(y, int8_linear(x, *rest))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype, isa: str) -> None:
    x, weight, scale, bias = operands(70, 192, 83, dtype)
    alone = torch.cat([int8_linear_native(row[None], weight, scale, bias, library(isa)) for row in x])
    for tokens in (2, 3, 6, 8, 13, 70):
        found = int8_linear_native(x[:tokens], weight, scale, bias, library(isa))
        assert torch.equal(found, alone[:tokens])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_nothing(dtype: torch.dtype) -> None:
    case = operands(8, 576, 1000, dtype)
    answers = on_threads(lambda: int8_linear_native(*case, library()))
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_every_element_is_written(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = operands(7, 50, 37)
    poison_new_tensors(monkeypatch)
    assert int8_linear_native(*case, library()).isfinite().all()
    assert int8_linear_triton(*(t.to(device) for t in case)).isfinite().all()


def test_leading_dimensions_and_strides_are_kept(device: str) -> None:
    x, weight, scale, bias = operands(12, 32, 9)
    wide = torch.cat([x, x], dim=1).view(3, 4, 64)[..., :32]
    expected = int8_linear_torch(x, weight, scale, bias).view(3, 4, 9)
    torch.testing.assert_close(int8_linear(wide, weight, scale, bias), expected)
    on_device = [t.to(device) for t in (weight, scale, bias)]
    torch.testing.assert_close(int8_linear_triton(wide.to(device), *on_device).cpu(), expected)
    torch.testing.assert_close(int8_linear(x[0], weight, scale, bias), expected[0, 0])


def test_no_bias_is_a_bias_of_zeros(device: str) -> None:
    x, weight, scale, _ = operands(2, 24, 11)
    expected = int8_linear(x, weight, scale, torch.zeros(11))
    assert torch.equal(int8_linear(x, weight, scale), expected)
    without = int8_linear_triton(x.to(device), weight.to(device), scale.to(device))
    torch.testing.assert_close(without.cpu(), expected)


def test_a_bias_may_have_the_dtype_of_the_activations() -> None:
    x, weight, scale, bias = operands(2, 24, 11, torch.bfloat16)
    half = bias.bfloat16()
    assert torch.equal(int8_linear(x, weight, scale, half), int8_linear(x, weight, scale, half.float()))


def test_no_tokens_give_no_rows(device: str) -> None:
    x, weight, scale, bias = (t.to(device) for t in operands(0, 16, 5))
    assert int8_linear(x, weight, scale, bias).shape == (0, 5)
    assert int8_linear_triton(x, weight, scale, bias).shape == (0, 5)


def test_not_a_number_stays_one() -> None:
    x, weight, scale, bias = operands(9, 64, 12, torch.bfloat16)
    x[3, 5] = torch.nan
    lost = int8_linear_native(x, weight, scale, bias, library()).isnan()
    assert lost[3].all() and lost.sum() == 12


def test_gradients_go_through_torch() -> None:
    x, weight, scale, bias = operands(3, 10, 4)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(int8_linear(x, weight, scale, bias).sum(), x)
    torch.testing.assert_close(gradient, (weight * scale[:, None]).sum(0).expand(3, 10))


def test_torch_works_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = operands(3, 40, 33)
    whole = int8_linear_torch(*case)
    monkeypatch.setattr("moesaic.kernels.int8_linear.BLOCK_BYTES", 4 * 40 * 7)
    torch.testing.assert_close(int8_linear_torch(*case), whole)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("cuda", 1, False, None, True), "triton"),
        (("cuda", 1, False, None, False), "torch"),
        (("cuda", 1, True, None, True), "torch"),
        (("cpu", 1, False, "avx2", True), "native"),
        (("cpu", 4096, False, "avx512", True), "native"),
        (("cpu", 1, False, "portable", False), "native"),
        (("cpu", 8, False, "portable", False), "torch"),
        (("cpu", 1, True, "avx512", True), "torch"),
        (("cpu", 1, False, None, True), "torch"),
        (("cpu", 0, False, "avx512", True), "torch"),
        (("mps", 1, False, None, False), "torch"),
    ],
)
def test_the_choice_follows_from_device_and_size(call: tuple[str, int, bool, str | None, bool], answer: str) -> None:
    assert choose_int8_linear(*call) == answer


def test_decode_tiles_are_narrow_and_prefill_tiles_fill_tensor_cores() -> None:
    decode, prefill = (int8_linear_config(tokens, 576, torch.bfloat16) for tokens in (1, 128))
    assert decode.block_outputs < 64 <= prefill.block_outputs
    assert decode.block_tokens < prefill.block_tokens


def test_the_cost_counts_each_operand_once() -> None:
    cost = int8_linear_cost(tokens=2, inputs=10, outputs=3, activation_bytes=2)
    assert (cost.bytes, cost.flops) == (30 + 12 + 2 * 2 * 13, 120)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "x must be float32, bfloat16 or float16"),
        ({"x": torch.zeros(2, 5)}, ValueError, r"x must be \[..., 4\] for this weight, it is \[2, 5\]"),
        ({"x": torch.tensor(1.0)}, ValueError, r"x must be \[..., 4\]"),
        ({"x": torch.zeros(2, 4, device="meta")}, ValueError, "x is on meta, scale on cpu"),
        ({"weight": torch.zeros(3, 4)}, TypeError, "weight must be int8 and scale float32"),
        ({"weight": torch.zeros(4, 3, dtype=torch.int8).T}, ValueError, "weight must be contiguous"),
        ({"weight": torch.zeros(12, dtype=torch.int8)}, ValueError, "weight must be contiguous"),
        ({"scale": torch.zeros(4)}, ValueError, r"scale must be contiguous \[3\], it is \[4\]"),
        ({"scale": torch.zeros(3, dtype=torch.float64)}, TypeError, "they are torch.int8 and torch.float64"),
        ({"bias": torch.zeros(1)}, ValueError, r"bias must be contiguous \[3\], it is \[1\]"),
        ({"bias": torch.zeros(3, dtype=torch.int32)}, TypeError, "bias must be floating point"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(
    changed: dict[str, torch.Tensor], error: type[Exception], message: str
) -> None:
    good = {"x": torch.zeros(2, 4), "weight": torch.zeros(3, 4, dtype=torch.int8), "scale": torch.zeros(3)}
    with pytest.raises(error, match=message):
        int8_linear(**(good | changed))


def test_without_compiler_and_triton_torch_answers() -> None:
    """The process sees neither, and importing must leave CUDA alone."""
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from moesaic.kernels.int8_linear import *; from moesaic.kernels.native import *\n"
        "x, w, s = torch.ones(2, 4), torch.ones(3, 4, dtype=torch.int8), torch.ones(3)\n"
        "print(int8_linear(x, w, s).tolist(), native_status().reason, torch.cuda.is_initialized())"
    )
    environment = os.environ | {"MOESAIC_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == f"{[[4.0] * 3] * 2} turned off by MOESAIC_NATIVE=0 False", done.stderr
