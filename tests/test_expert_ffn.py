"""The FFN in experts: one answer from torch, from Triton and from C++, whoever is active and whoever is beside it."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import kernel_harness
import pytest
import torch
from kernel_harness import library, on_threads, poison_new_tensors
from torch import Tensor
from torch.nn import functional

from moesaic.kernels.activations import ACTIVATIONS
from moesaic.kernels.expert_ffn import (
    ExpertWeights,
    choose_expert_ffn,
    down_config,
    expert_ffn,
    expert_ffn_cost,
    expert_ffn_torch,
    expert_ffn_triton,
    up_config,
)
from moesaic.kernels.native_expert_ffn import activated_rows_native, expert_ffn_native

FP32, BF16, FP16, INT8 = torch.float32, torch.bfloat16, torch.float16, torch.int8
SHAPES = [(3, 36, 100, 24), (20, 48, 96, 16), (1, 70, 33, 1), (2, 64, 256, 64)]  # tokens, hidden, width, expert size
PAIRS = [(FP32, FP32), (FP32, BF16), (FP32, INT8), (BF16, BF16), (BF16, INT8), (FP16, FP32)]  # activations, weights
NATIVE_ISAS = ["portable", "avx2", "avx512"]  # bf16 products are not used here
Operands = tuple[Any, ...]  # the arguments of expert_ffn


def operands(
    shape: tuple[int, int, int, int] = (8, 64, 100, 24),
    dtypes: tuple[torch.dtype, torch.dtype] = (FP32, FP32),
    activation: str = "silu",
    gated: bool = True,
) -> Operands:
    """The arguments of `expert_ffn`, the same in every run; half of the experts are active."""
    tokens, hidden, width, expert_size = shape
    random = torch.Generator().manual_seed(sum(shape))

    def matrix() -> Tensor:
        if dtypes[1] == INT8:
            return torch.randint(-127, 128, (width, hidden), generator=random, dtype=INT8)
        return torch.randn(width, hidden, generator=random).div(hidden**0.5).to(dtypes[1])

    def vector(length: int) -> Tensor:
        return torch.rand(length, generator=random) / 4

    weights = ExpertWeights(
        matrix(), matrix(), matrix() if gated else None,
        up_bias=vector(width), gate_bias=vector(width) if gated else None, down_bias=vector(hidden),
        **({"up_scale": vector(width) / 100, "down_scale": vector(hidden) / 100} if dtypes[1] == INT8 else {}),
        **({"gate_scale": vector(width) / 100} if dtypes[1] == INT8 and gated else {}),
    )  # fmt: skip
    x = torch.randn(tokens, hidden, generator=random).to(dtypes[0])
    active = torch.rand(tokens, -(-width // expert_size), generator=random) < 0.5
    return x, weights, active, expert_size, activation


def on_device(case: Operands, device: str) -> Operands:
    x, weights, active, *rest = case
    moved = {name: tensor.to(device) for name, tensor in vars(weights).items() if isinstance(tensor, Tensor)}
    return x.to(device), ExpertWeights(**moved), active.to(device), *rest


def by_native(case: Operands, isa: str = "") -> Tensor:
    x, weights, active, expert_size, activation = case
    y: Tensor = expert_ffn_native(x, weights, active, expert_size, activation, library(isa))
    return y


def by_triton(case: Operands, device: str) -> Tensor:
    y: Tensor = expert_ffn_triton(*on_device(case, device)).cpu()
    return y


def dense(case: Operands, dtype: torch.dtype) -> Tensor:
    """The whole FFN in one dtype, from dequantized weights, with a mask on the neurons."""
    x, weights, active, expert_size, activation = case
    mask = active.repeat_interleave(expert_size, dim=1)[:, : weights.width]

    def product(x: Tensor, name: str) -> Tensor:
        weight = getattr(weights, name).double()
        weight = weight.T if name == "down" else weight
        scale, bias = getattr(weights, f"{name}_scale"), getattr(weights, f"{name}_bias")
        weight = weight if scale is None else weight * scale.double()[:, None]
        return functional.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))

    act, up = ACTIVATIONS[activation], product(x.to(dtype), "up")
    h = act(up) if weights.gate is None else act(product(x.to(dtype), "gate")) * up
    return product(h * mask, "down")


def assert_no_worse(ours: Tensor, case: Operands) -> None:
    """Ours errs no more than plain torch does in the dtype of x."""
    x, weights = case[:2]
    assert ours.dtype == x.dtype and ours.shape == x.shape
    answer, plain = dense(case, torch.float64), dense(case, x.dtype)
    kernel_harness.assert_no_worse(ours, answer, plain, weights.hidden + weights.width)


@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_gives_the_masked_dense_product(shape: tuple[int, int, int, int], dtypes: Any) -> None:
    case = operands(shape, dtypes)
    assert_no_worse(expert_ffn_torch(*case), case)


@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_triton_is_no_worse_than_plain_torch(shape: tuple[int, int, int, int], dtypes: Any, device: str) -> None:
    case = operands(shape, dtypes)
    assert_no_worse(by_triton(case, device), case)


@pytest.mark.parametrize("isa", NATIVE_ISAS)
@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_native_is_no_worse_than_plain_torch(shape: tuple[int, int, int, int], dtypes: Any, isa: str) -> None:
    case = operands(shape, dtypes)
    assert_no_worse(by_native(case, isa), case)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_with_and_without_a_gate(activation: str, gated: bool, device: str) -> None:
    case = operands(activation=activation, gated=gated)
    assert_no_worse(by_native(case), case)
    assert_no_worse(by_triton(case, device), case)


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize(
    "shape", [(1, 2048, 8192, 64), (16, 576, 1536, 64), (100, 768, 3072, 24), (512, 576, 1536, 64)]
)
def test_the_door_is_no_worse_than_plain_torch_on_cuda(shape: tuple[int, int, int, int], dtypes: Any) -> None:
    case = operands(shape, dtypes)
    assert_no_worse(expert_ffn(*on_device(case, "cuda")).cpu(), case)


@pytest.mark.gpu
def test_a_cuda_graph_replays_the_kernels_on_new_experts() -> None:
    x, weights, active, *rest = on_device(operands(), "cuda")
    expert_ffn(x, weights, active, *rest)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = expert_ffn(x, weights, active, *rest)
    active.logical_not_()
    graph.replay()
    assert torch.equal(y, expert_ffn(x, weights, active, *rest))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_experts_are_the_dense_network(activation: str, device: str) -> None:
    x, weights, active, size, _ = operands(activation=activation)
    case = x, weights, torch.ones_like(active), size, activation
    h = ACTIVATIONS[activation](functional.linear(x, weights.gate, weights.gate_bias))
    whole = functional.linear(h * functional.linear(x, weights.up, weights.up_bias), weights.down.T, weights.down_bias)
    for y in (by_native(case), by_triton(case, device)):
        assert (y - whole).norm() <= 1e-6 * whole.norm()


@pytest.mark.parametrize("dtypes", PAIRS)
def test_no_expert_leaves_the_bias(dtypes: Any, device: str) -> None:
    x, weights, active, *rest = operands(dtypes=dtypes)
    case = x, weights, torch.zeros_like(active), *rest
    bias = weights.down_bias.to(x.dtype).expand_as(x)
    assert torch.equal(by_native(case), bias)
    torch.testing.assert_close(by_triton(case, device), bias)  # the interpreter truncates
    assert not by_native((x, replace(weights, down_bias=None), torch.zeros_like(active), *rest)).any()


@pytest.mark.parametrize("isa", NATIVE_ISAS)
@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize(("expert_size", "activation"), [(24, "silu"), (1, "gelu"), (7, "relu")])
def test_a_row_does_not_depend_on_its_neighbours(expert_size: int, activation: str, dtypes: Any, isa: str) -> None:
    """140 tokens are more than are computed at once."""
    x, weights, active, *rest = operands((140, 90, 83, expert_size), dtypes, activation)

    def rows(first: int, last: int) -> Tensor:
        return by_native((x[first:last], weights, active[first:last], *rest), isa)

    alone = torch.cat([rows(t, t + 1) for t in range(9)])
    for tokens in (2, 3, 6, 9, 140):
        assert torch.equal(rows(0, tokens)[:9], alone[:tokens])


@pytest.mark.parametrize("dtypes", PAIRS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_the_number_of_threads_changes_nothing(tokens: int, dtypes: Any) -> None:
    case = operands((tokens, 300, 1000, 24), dtypes)
    one, two, three = on_threads(lambda: by_native(case))
    assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize("tokens", [1, 7, 20])
def test_every_element_is_written(tokens: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = operands((tokens, 50, 100, 24))
    poison_new_tensors(monkeypatch)
    assert by_native(case).isfinite().all()
    assert by_triton(case, device).isfinite().all()


def test_weights_of_experts_that_nobody_uses_are_not_read(device: str) -> None:
    x, weights, active, *rest = operands((3, 40, 100, 24))
    active[:, 1::2] = False
    unused = ~active.any(0).repeat_interleave(24)[:100]
    assert unused.sum() >= 48
    spoilt = [each.clone().index_fill_(0, unused.nonzero()[:, 0], torch.nan) for each in (weights.up, weights.down)]
    case = x, replace(weights, up=spoilt[0], gate=spoilt[0], down=spoilt[1]), active, *rest
    sound = x, replace(weights, gate=weights.up), active, *rest
    assert torch.equal(by_native(case), by_native(sound))
    assert torch.equal(by_triton(case, device), by_triton(sound, device))


def test_a_token_is_untouched_by_experts_of_its_neighbours() -> None:
    x, weights, active, *_ = case = operands((2, 40, 96, 24))
    active[:] = torch.tensor([[True, False, True, False], [True, True, False, False]])
    before = by_native(case)
    weights.down[24:48] = torch.nan
    after = by_native(case)
    assert torch.equal(after[0], before[0]) and after[1].isnan().all()


def test_rows_of_down_that_relu_made_zero_are_not_read() -> None:
    x, weights, active, *_ = case = operands((1, 40, 96, 24), activation="relu", gated=False)
    active[:] = True
    silent = functional.linear(x, weights.up, weights.up_bias)[0] <= 0
    before = by_native(case)
    weights.down[silent] = torch.nan
    assert 10 < silent.sum() < 86
    assert torch.equal(by_native(case), before)


@pytest.mark.parametrize("isa", NATIVE_ISAS)
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations_err_by_two_millionths_at_most(name: str, isa: str) -> None:
    """The exact values are fp64: in the tails torch's own fp32 has few digits left."""
    x = torch.cat([torch.linspace(-12, 12, 20001), torch.linspace(-80, 80, 997), torch.tensor([-3e38, -0.0, 1e-40])])
    wide = x.double()
    exact = {
        "silu": wide * wide.sigmoid(),
        "gelu": wide * torch.special.erfc(-wide / 2**0.5) / 2,
        "gelu_tanh": wide * ((8 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)).sigmoid(),
        "relu": wide.relu(),
    }
    found = activated_rows_native(x[:, None], torch.ones(1, 1), name, library(isa))[:, 0]
    torch.testing.assert_close(found.double(), exact[name], rtol=2e-6, atol=1e-35)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu"])
def test_infinity_and_nan_pass_through_activations(name: str) -> None:
    x = torch.tensor([torch.inf, torch.nan, -3.4e38])
    infinite, lost, zero = activated_rows_native(x[:, None], torch.ones(1, 1), name, library())[:, 0].tolist()
    assert infinite == torch.inf and lost != lost and zero == 0


def test_not_a_number_stays_one(device: str) -> None:
    x, weights, active, *_ = case = operands((9, 64, 100, 24), activation="relu")
    x[3, 5], active[3, 0] = torch.nan, True
    for lost in (by_native(case).isnan(), by_triton(case, device).isnan()):
        assert lost[3].all() and lost.sum() == 64


def test_strides_of_tokens_and_masks_are_kept(device: str) -> None:
    x, weights, active, *rest = case = operands()
    expected = expert_ffn_torch(*case)
    apart = torch.cat([x, x], dim=1)[:, :64], weights, active.T.contiguous().T, *rest
    torch.testing.assert_close(by_native(apart), expected)
    torch.testing.assert_close(by_triton(apart, device), expected)


def test_biases_may_have_the_dtype_of_the_activations() -> None:
    x, weights, *rest = operands(dtypes=(BF16, BF16))
    half = replace(weights, **{n: v.bfloat16() for n, v in weights.vectors.items()})
    wide = replace(half, **{n: v.float() for n, v in half.vectors.items()})
    assert torch.equal(expert_ffn(x, half, *rest), expert_ffn(x, wide, *rest))


def test_no_tokens_give_no_rows(device: str) -> None:
    case = operands((0, 16, 10, 5))
    assert expert_ffn(*case).shape == (0, 16)
    assert by_triton(case, device).shape == (0, 16)


def test_gradients_go_through_torch_to_active_experts_alone() -> None:
    x, weights, active, *rest = operands()
    weights.up.requires_grad_()
    (gradient,) = torch.autograd.grad(expert_ffn(x, weights, active, *rest).sum(), weights.up)
    used = active.any(0).repeat_interleave(24)[:100]
    assert torch.equal(gradient.any(1), used)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("cuda", 1, BF16, False, None, True), "triton"),
        (("cuda", 1, BF16, False, None, False), "torch"),
        (("cuda", 1, BF16, True, None, True), "torch"),
        (("cuda", 64, BF16, False, None, True), "torch"),
        (("cuda", 4096, INT8, False, None, True), "triton"),
        (("cpu", 1, FP32, False, "avx2", True), "native"),
        (("cpu", 4096, INT8, False, "avx512", True), "native"),
        (("cpu", 1, FP16, False, "avx512", True), "torch"),
        (("cpu", 1, BF16, False, "portable", False), "native"),
        (("cpu", 8, BF16, False, "portable", False), "torch"),
        (("cpu", 1, FP32, True, "avx512", True), "torch"),
        (("cpu", 1, FP32, False, None, True), "torch"),
        (("cpu", 0, FP32, False, "avx512", True), "torch"),
        (("mps", 1, FP32, False, None, False), "torch"),
    ],
)
def test_the_choice_follows_from_device_size_and_weights(call: Any, answer: str) -> None:
    assert choose_expert_ffn(*call) == answer


def test_decode_tiles_are_narrow_and_prefill_tiles_fill_tensor_cores() -> None:
    for decode, prefill in (
        (up_config(1, 8192, BF16, True), up_config(512, 8192, BF16, True)),
        (down_config(1, 2048, BF16), down_config(512, 2048, BF16)),
    ):
        assert decode.block_outputs < 64 <= prefill.block_outputs
        assert decode.block_tokens < prefill.block_tokens


def test_the_cost_counts_each_used_expert_once() -> None:
    cost = expert_ffn_cost(2, union_experts=3, pairs=4, expert_size=8, hidden=10, matrices=3, weight_bytes=2)
    assert (cost.bytes, cost.flops) == (3 * 8 * 3 * 10 * 2 + 2 * 4 * 2 * 10, 2 * 4 * 8 * 3 * 10)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"x": torch.zeros(2, 4, dtype=torch.float64)}, TypeError, "x must be float32, bfloat16 or float16"),
        ({"x": torch.zeros(2, 5)}, ValueError, r"x must be \[tokens, 4\] for these weights, it is \[2, 5\]"),
        ({"x": torch.zeros(2, 4, device="meta")}, ValueError, "x is on meta, weights on cpu"),
        ({"active": torch.zeros(2, 3)}, TypeError, "active must be bool, it is torch.float32"),
        ({"active": torch.zeros(2, 2, dtype=torch.bool)}, ValueError, r"active must be \[2, 3\], experts of 4 of 10"),
        ({"expert_size": 0}, ValueError, "expert_size must be at least 1, it is 0"),
        ({"activation": "swish"}, ValueError, "activation must be one of silu, relu, gelu, gelu_tanh, it is 'swish'"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(changed: Any, error: type[Exception], message: str) -> None:
    good = {"x": torch.zeros(2, 4), "weights": ExpertWeights(torch.zeros(10, 4), torch.zeros(10, 4)),
            "active": torch.zeros(2, 3, dtype=torch.bool), "expert_size": 4, "activation": "silu"}  # fmt: skip
    with pytest.raises(error, match=message):
        expert_ffn(**(good | changed))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"up": torch.zeros(10, 4, dtype=torch.int32)}, TypeError, "up must be float32, bfloat16, float16 or int8"),
        ({"down": torch.zeros(4, 10)}, ValueError, r"down must be contiguous \[10, 4\], neuron-major like up"),
        ({"down": torch.zeros(4, 10).T}, ValueError, r"with strides \(1, 10\)"),
        ({"gate": torch.zeros(10, 4).bfloat16()}, TypeError, "gate is torch.bfloat16 on cpu, up is torch.float32"),
        ({"up_bias": torch.zeros(4)}, ValueError, r"up_bias must be contiguous \[10\], it is \[4\]"),
        ({"down_bias": torch.zeros(4, dtype=torch.int8)}, TypeError, "down_bias must be floating point"),
        ({"down_bias": torch.zeros(4, device="meta")}, ValueError, "down_bias is on meta, up on cpu"),
        ({"up_scale": torch.zeros(10).half()}, TypeError, "up_scale must be float32"),
        ({"up_scale": torch.zeros(10)}, ValueError, "up_scale belongs to int8 weights, and to them alone"),
        ({"gate_bias": torch.zeros(10)}, ValueError, "gate_scale and gate_bias need a gate"),
        (dict.fromkeys(("up", "down"), torch.zeros(10, 4, dtype=INT8)), ValueError, "up_scale belongs to int8"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changed: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ExpertWeights(**({"up": torch.zeros(10, 4), "down": torch.zeros(10, 4)} | changed))


def test_without_compiler_and_triton_torch_answers() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from moesaic.kernels.expert_ffn import *\n"
        "w = ExpertWeights(torch.ones(4, 3), torch.ones(4, 3))\n"
        "active = torch.tensor([[True, False]])\n"
        "print(expert_ffn(torch.ones(1, 3), w, active, 2, 'relu').tolist(), torch.cuda.is_initialized())"
    )
    environment = os.environ | {"MOESAIC_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[[6.0, 6.0, 6.0]] False", done.stderr
