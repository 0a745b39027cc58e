"""The plane FFN that learns: the numbers of the kernel, and gradients for those neurons alone that were computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moesaic.compress.distill.sparse_ffn import TierFFN, TierShares, fake_int8, limit_for_share, plane_rows
from moesaic.compress.quantize.int8 import quantize_rows
from moesaic.kernels.int8_dynamic_linear import quantize_tokens
from moesaic.kernels.plane_ffn import PlaneWeights, plane_ffn_torch, plane_scores
from moesaic.models.spec import FFNSpec

HIDDEN, WIDTH, TOKENS = 24, 40, 6
KINDS = pytest.mark.parametrize(("gated", "activation"), [(True, "silu"), (True, "relu"), (False, "gelu")])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tier_ffn(gated: bool, activation: str, active: float, exact: float, **rest: Any) -> TierFFN:
    ffn = TierFFN(HIDDEN, FFNSpec(WIDTH, activation, gated, bias=True, output_bias=True), TierShares(4, active, exact))
    ffn.shares = TierShares(4, active, exact, **rest)
    for seed, weight in enumerate(ffn.parameters()):
        weight.data = randn(*weight.shape, seed=seed) * 0.3
    return ffn


def stored(ffn: TierFFN) -> PlaneWeights:
    """The same weights as the runtime has them."""
    weights: dict[str, Any] = {}
    for name in ("up", "down", "gate"):
        if (linear := getattr(ffn, name)) is not None:
            weights[name], weights[f"{name}_scale"] = quantize_rows(linear.weight.data)
            weights[f"{name}_bias"] = linear.bias.data
    norm = (weights["down"].float() * weights["down_scale"].unsqueeze(1)).norm(dim=0)
    return PlaneWeights(**weights, down_norm=norm)


@KINDS
@pytest.mark.parametrize(("active", "exact"), [(0.5, 0.2), (0.5, 0.5), (1.0, 0.3), (1.0, 1.0)])
def test_at_the_thresholds_that_keep_its_shares_the_kernel_gives_the_same(
    gated: bool, activation: str, active: float, exact: float
) -> None:
    ffn, x = tier_ffn(gated, activation, active, exact, compensate=False), randn(TOKENS, HIDDEN, seed=9)
    scores = plane_scores(x, stored(ffn), 4, activation)
    limits = torch.tensor([[float(limit_for_share(scores, share)) for share in (active, exact)]]).expand(TOKENS, 2)
    result = plane_ffn_torch(x, stored(ffn), limits, 4, activation)
    above_0 = int((scores > 0).sum()) if active < 1 else scores.numel()
    assert int(result.active.sum()) == min(above_0, int(active * scores.numel()))
    torch.testing.assert_close(ffn.sparse(x), result.y, rtol=1e-4, atol=1e-5)


@KINDS
def test_all_neurons_from_all_bits_are_the_dense_int8_network(gated: bool, activation: str) -> None:
    ffn, x = tier_ffn(gated, activation, 1.0, 1.0), randn(TOKENS, HIDDEN, seed=9)
    integers, scale = quantize_tokens(x)
    torch.testing.assert_close(ffn.sparse(x), ffn.dense(integers * scale), rtol=1e-4, atol=1e-5)


@KINDS
def test_only_neurons_that_were_computed_get_a_gradient(gated: bool, activation: str) -> None:
    ffn, x = tier_ffn(gated, activation, 0.2, 0.05), randn(1, HIDDEN, seed=9)
    ffn.sparse(x).square().sum().backward()  # type: ignore[no-untyped-call]
    scores = plane_scores(x, stored(ffn), 4, activation)[0]
    active = scores > float(limit_for_share(scores, 0.2))
    assert int(active.sum()) == 8
    rows = [ffn.up.weight.grad, ffn.down.weight.grad.T, *([ffn.gate.weight.grad] if ffn.gate else [])]  # type: ignore
    for grad in rows:
        assert bool(grad[active].any(dim=1).all()) and not bool(grad[~active].any())  # type: ignore[index]


def test_gradients_pass_the_rounding_as_if_it_were_none() -> None:
    ffn, x = tier_ffn(True, "silu", 1.0, 1.0), randn(TOKENS, HIDDEN, seed=9)
    plain = ffn.down(ffn.activation(ffn.gate(x)) * ffn.up(x))  # type: ignore[misc]
    wanted = torch.autograd.grad(plain.sum(), list(ffn.parameters()))
    found = torch.autograd.grad(ffn.sparse(x).sum(), list(ffn.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()


def test_what_a_tier_leaves_out_is_made_up_for_in_the_mean() -> None:
    sparse, x = tier_ffn(True, "silu", 0.3, 0.1), randn(200, HIDDEN, seed=9)
    sparse.shares = TierShares(4, 0.3, 0.3)
    whole = tier_ffn(True, "silu", 1.0, 1.0).sparse(x)
    torch.testing.assert_close(sparse.sparse(x).mean(0), whole.mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_coarse_rows_are_the_high_bits_of_the_stored_ones(bits: int) -> None:
    weight = torch.cat([randn(5, 16), torch.zeros(1, 16)])
    integers, scale = quantize_rows(weight)
    coarse, exact, ours = plane_rows(weight, bits)
    assert torch.equal(exact, integers.float()) and torch.equal(ours, scale)
    expected = (integers >> (8 - bits)).float() * 2 ** (8 - bits) + 2 ** (7 - bits) - 0.5
    assert torch.equal(coarse, expected)
    torch.testing.assert_close(fake_int8(weight), integers.float() * scale.unsqueeze(1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_a_limit_keeps_its_share_and_never_more(share: float) -> None:
    scores = randn(7, 13).abs()
    assert int((scores > limit_for_share(scores, share)).sum()) == int(share * scores.numel())
    half_zero = scores * (scores > scores.median())
    assert int((half_zero > limit_for_share(half_zero, share)).sum()) <= max(45, int(share * 91))


def test_the_twin_has_the_parameters_of_the_dense_network_under_their_names() -> None:
    dense = nn.ModuleDict({"ffn": tier_ffn(True, "silu", 1, 1)})
    names = [name for name, _ in dense.named_parameters()]
    dense["ffn"] = TierFFN.of(dense["ffn"], HIDDEN, FFNSpec(WIDTH, "silu", True), TierShares(4, 0.5, 0.5))  # type: ignore
    assert [name for name, _ in dense.named_parameters()] == names and list(dense.state_dict()) == names
