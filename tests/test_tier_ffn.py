"""The plane FFN that learns: the numbers of the kernel, and gradients for those neurons alone that were computed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moesaic.compress.distill.straight_through import fake_int8
from moesaic.compress.distill.tier_ffn import TierFFN, plane_rows, threshold_for_share
from moesaic.compress.moefy.fit import fitted
from moesaic.compress.quantize.int8 import quantize_rows
from moesaic.kernels.int8_dynamic_linear import quantize_tokens
from moesaic.kernels.plane_ffn import PlaneWeights, plane_ffn_torch, plane_scores
from moesaic.kernels.planes.choice import NeuronScores
from moesaic.models.spec import BIT_PLANES, ExpertSpec, FFNSpec

HIDDEN, WIDTH, TOKENS = 24, 40, 10
EXPERTS = ExpertSpec(1, BIT_PLANES, router_bits=4, refined_bits=7)
KINDS = pytest.mark.parametrize(
    ("gated", "activation"), [(True, "silu"), (True, "relu"), (False, "gelu"), (False, "relu")]
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tier_ffn(gated: bool, activation: str, touched: float, ratio: float = 1.0, compensate: bool = False) -> TierFFN:
    spec = FFNSpec(WIDTH, activation, gated, bias=True, output_bias=True)
    ffn = TierFFN(HIDDEN, spec, EXPERTS, randn(WIDTH, seed=8).abs(), compensate)
    ffn.touched, ffn.ratio = touched, ratio
    for seed, weight in enumerate(ffn.parameters()):
        weight.data = randn(*weight.shape, seed=seed) * 0.3
    return ffn


def stored(ffn: TierFFN, x: Tensor) -> PlaneWeights:
    """The same weights as the runtime has them, fitted to these tokens."""
    weights: dict[str, Any] = {}
    for name in ("up", "down", "gate"):
        if (linear := getattr(ffn, name)) is not None:
            weights[name], weights[f"{name}_scale"] = quantize_rows(linear.weight.data)
            weights[f"{name}_bias"] = linear.bias.data
    return PlaneWeights(**weights, fit=ffn.products(x)[1], refined_bits=EXPERTS.refined_bits)


def thresholds_of(ffn: TierFFN, x: Tensor, activation: str) -> tuple[NeuronScores, Tensor]:
    """What the stored weights see, and the thresholds [tokens, 2] at which they touch as much."""
    scores = plane_scores(x, stored(ffn, x), 4, activation)
    threshold = threshold_for_share(scores.touched_below(ffn.ratio), ffn.touched)
    return scores, (threshold * torch.tensor([1.0, ffn.ratio])).expand(TOKENS, 2)


@KINDS
@pytest.mark.parametrize(("touched", "ratio"), [(0.5, 1.0), (0.5, 0.3), (0.9, 2.0), (1.0, 1.0)])
def test_at_the_threshold_that_touches_its_share_the_kernel_gives_the_same(
    gated: bool, activation: str, touched: float, ratio: float
) -> None:
    ffn, x = tier_ffn(gated, activation, touched, ratio), randn(TOKENS, HIDDEN, seed=9)
    scores, thresholds = thresholds_of(ffn, x, activation)
    computed, refined = scores.chosen(thresholds)
    count, wanted = int((computed | refined).sum()), int(touched * TOKENS * WIDTH)
    assert count <= wanted + 1 and (count >= wanted - 1 or activation == "relu")  # whose zeros are worth nothing
    result = plane_ffn_torch(x, stored(ffn, x), thresholds, 4, activation)
    found = ffn.sparse(x)  # which rounds no neuron to 16 bits
    assert (found - result.y).abs().max() < 1e-4 * result.y.abs().max()


@KINDS
def test_all_neurons_from_all_bits_are_the_dense_int8_network(gated: bool, activation: str) -> None:
    ffn, x = tier_ffn(gated, activation, 1.0, compensate=True), randn(TOKENS, HIDDEN, seed=9)
    ffn.experts = replace(EXPERTS, refined_bits=8)
    integers, scale = quantize_tokens(x)
    torch.testing.assert_close(ffn.sparse(x), ffn.dense(integers * scale), rtol=1e-4, atol=1e-5)


@KINDS
def test_only_neurons_that_were_computed_get_a_gradient(gated: bool, activation: str) -> None:
    ffn, x = tier_ffn(gated, activation, 0.05, compensate=True), randn(TOKENS, HIDDEN, seed=9)
    scores, thresholds = thresholds_of(ffn, x, activation)
    ffn.sparse(x).square().sum().backward()  # type: ignore[no-untyped-call]
    active = scores.chosen(thresholds)[0].any(dim=0)
    assert 1 <= int(active.sum()) <= 0.05 * TOKENS * WIDTH
    rows = [ffn.up.weight.grad, ffn.down.weight.grad.T, *([ffn.gate.weight.grad] if ffn.gate else [])]  # type: ignore
    for grad in rows:
        assert bool(grad[active].any(dim=1).all()) and not bool(grad[~active].any())  # type: ignore[index]


@pytest.mark.parametrize("exact", [True, False])
def test_gradients_pass_rounding_and_coarse_values_as_if_there_were_none(exact: bool) -> None:
    """At a high ratio doubts never pay; the least value is left out then, as no threshold would take it alone."""
    touched, ratio = (1.0, 1.0) if exact else (1 - 0.5 / (TOKENS * WIDTH), 1e9)
    ffn, x = tier_ffn(True, "silu", touched, ratio), randn(TOKENS, HIDDEN, seed=9)
    plain = ffn.down(ffn.activation(ffn.gate(x)) * ffn.up(x))  # type: ignore[misc]
    wanted = torch.autograd.grad(plain.sum(), list(ffn.parameters()))
    found = torch.autograd.grad(ffn.sparse(x).sum(), list(ffn.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < (0.05 if exact else 0.3) * other.norm()


def test_what_a_tier_leaves_out_is_made_up_for_in_the_mean() -> None:
    sparse, x = tier_ffn(True, "silu", 0.3, compensate=True), randn(200, HIDDEN, seed=9)
    whole = tier_ffn(True, "silu", 1.0).sparse(x)
    torch.testing.assert_close(sparse.sparse(x).mean(0), whole.mean(0), rtol=1e-3, atol=1e-4)


def test_the_fit_is_that_of_calibration() -> None:
    ffn, x = tier_ffn(True, "silu", 1.0), randn(300, HIDDEN, seed=9)
    weights = stored(ffn, x)
    theirs = fitted([x], weights, 4, ffn.importance)
    for one, other in zip(weights.fit.tensors, theirs.tensors, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_coarse_and_refined_rows_are_the_high_bits_of_the_stored_ones(bits: int) -> None:
    weight = torch.cat([randn(5, 16), torch.zeros(1, 16)])
    integers, scale = quantize_rows(weight)
    rows = plane_rows(weight, ExpertSpec(1, BIT_PLANES, router_bits=bits, refined_bits=bits + 1))
    assert torch.equal(rows.whole, integers.float()) and torch.equal(rows.scale, scale)
    for found, count in ((rows.coarse, bits), (rows.refined, bits + 1)):
        expected = (integers >> (8 - count)).float() * 2 ** (8 - count) + 2 ** (7 - count) - 0.5
        assert torch.equal(found, expected)
    torch.testing.assert_close(fake_int8(weight), integers.float() * scale.unsqueeze(1), rtol=0, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.0])
def test_a_threshold_keeps_its_share_and_never_more(share: float) -> None:
    scores = randn(7, 13).abs()
    assert int((scores > threshold_for_share(scores, share)).sum()) == int(share * scores.numel())
    half_zero = scores * (scores > scores.median())
    assert int((half_zero > threshold_for_share(half_zero, share)).sum()) <= max(45, int(share * 91))


def test_the_twin_has_the_parameters_of_the_dense_network_under_their_names() -> None:
    dense = nn.ModuleDict({"ffn": tier_ffn(True, "silu", 1.0)})
    names = [name for name, _ in dense.named_parameters()]
    dense["ffn"] = TierFFN.of(dense["ffn"], HIDDEN, FFNSpec(WIDTH, "silu", True), EXPERTS, torch.ones(WIDTH), True)  # type: ignore
    assert [name for name, _ in dense.named_parameters()] == names and list(dense.state_dict()) == names
