"""The bit-plane FFN: C++ and torch compute one function, whichever neurons are chosen and whoever is beside a token."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_harness import library, on_threads, plane_library, poison_new_tensors
from torch import Tensor

from moesaic.kernels.digit_linear import pack_digits
from moesaic.kernels.plane_ffn import (
    PlaneResult,
    PlaneWeights,
    choose_plane_ffn,
    packed_weights,
    plane_ffn,
    plane_ffn_torch,
    plane_scores,
)
from moesaic.kernels.planes.bytes import FFNShape, int8_ffn_bytes, plane_ffn_bytes
from moesaic.kernels.planes.choice import NeuronScores
from moesaic.kernels.planes.coarse import CoarseFit
from moesaic.kernels.planes.layout import MAX_HIDDEN, PackedPlanes, pack_planes
from moesaic.kernels.planes.native import PLANE_ISAS, plane_ffn_native, plane_isa

# tokens, hidden, width
SHAPES = [(1, 64, 1), (1, 1, 5), (3, 37, 17), (9, 65, 100), (2, 200, 33), (17, 48, 16), (5, 577, 301), (1, 130, 1000)]
ACTIVATIONS = ["silu", "relu", "gelu", "gelu_tanh"]
NEVER, ALWAYS = float("inf"), -1.0
TOLERANCE = 5e-5  # of the largest value: a neuron at the edge of two 16-bit numbers may be either


def weights_of(
    hidden: int, width: int, gated: bool = True, biased: bool = False, seed: int = 0, refined: int = 8
) -> PlaneWeights:
    draw = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, generator=draw, dtype=torch.int8)

    def scale(length: int) -> Tensor:
        return torch.rand(length, generator=draw) / 500 + 0.001

    down, down_scale = matrix(hidden, width), scale(hidden)
    rows = 2 if gated else 1
    drawn = [torch.stack([scale(width) for _ in range(rows)]) for _ in range(3)]
    errors = drawn[2] * 30 * hidden**0.5  # about those of four bits
    fit = CoarseFit(*(each.bfloat16() for each in (drawn[0], drawn[1] * 100, errors, scale(width) * 100)))
    weights = PlaneWeights(matrix(width, hidden), down, scale(width), down_scale, fit, refined_bits=refined)
    if gated:
        weights = replace(weights, gate=matrix(width, hidden), gate_scale=scale(width))
    if biased:
        weights = replace(weights, up_bias=scale(width) * 100, down_bias=scale(hidden) * 100)
    return weights


def on_cuda(weights: PlaneWeights) -> PlaneWeights:
    fit = CoarseFit(*(each.cuda() for each in weights.fit.tensors))
    moved: Any = {name: value.cuda() for name, value in vars(weights).items() if isinstance(value, Tensor)}
    return replace(weights, **moved, fit=fit)


def packed_by_hand(weights: PlaneWeights, bits: int) -> PackedPlanes:
    scored = [(weights.up, weights.up_scale, weights.up_bias)]
    if weights.gate is not None and weights.gate_scale is not None:
        scored.insert(0, (weights.gate, weights.gate_scale, weights.gate_bias))
    down = (weights.down, weights.down_scale, weights.down_bias)
    return pack_planes(scored, down, weights.fit, bits, weights.refined_bits)


def tokens_of(count: int, hidden: int) -> Tensor:
    return torch.randn(count, hidden, generator=torch.Generator().manual_seed(count + hidden))


def thresholds_of(scores: NeuronScores, shares: list[tuple[float, float]]) -> Tensor:
    """Thresholds [tokens, 2] in the widest gap near each share of the neurons: no rounding decides who passes."""
    ordered = [each.sort(-1, descending=True).values for each in (scores.value, scores.doubt)]
    rows = []
    for i, pair in enumerate(shares):
        rows.append([_gap(each[i], share) for each, share in zip(ordered, pair, strict=True)])
    return torch.tensor(rows)


def _gap(ordered: Tensor, share: float) -> float:
    if share in (0.0, 1.0):
        return NEVER if share == 0.0 else ALWAYS
    wanted = int(share * (len(ordered) - 1))
    near = range(max(0, wanted - 5), min(len(ordered) - 1, wanted + 6))
    gaps = {float(ordered[i] - ordered[i + 1]): i for i in near}
    return float(ordered[gaps[max(gaps)]] + ordered[gaps[max(gaps)] + 1]) / 2 if gaps else NEVER


def mixed_shares(count: int) -> list[tuple[float, float]]:
    """Tokens of all tiers side by side: shares of the neurons above the first threshold, and above the second."""
    kinds = [(0.5, 0.1), (1.0, 1.0), (0.0, 0.0), (0.3, 0.3), (1.0, 0.0), (0.8, 0.4), (0.1, 1.0)]
    return [kinds[i % len(kinds)] for i in range(count)]


def by_native(
    x: Tensor,
    weights: PlaneWeights,
    thresholds: Tensor,
    bits: int,
    activation: str,
    isa: str = "",
    together: bool = False,
) -> Any:
    isa = isa or plane_isa(library())
    loaded, packed = plane_library(isa), packed_by_hand(weights, bits)
    return PlaneResult(*plane_ffn_native(x, packed, thresholds, activation, loaded, isa, together))


def check_same(found: PlaneResult, expected: PlaneResult) -> None:
    assert torch.equal(found.active, expected.active) and torch.equal(found.fine, expected.fine)
    assert (found.y - expected.y).abs().max() <= TOLERANCE * expected.y.abs().max()


# --- one function ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_native_is_torch_in_every_shape(isa: str, bits: int, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    poison_new_tensors(monkeypatch)
    for number, (count, hidden, width) in enumerate(SHAPES):
        activation = ACTIVATIONS[(number + bits) % 4]
        weights, x = weights_of(hidden, width, gated, biased=number % 2 == 1), tokens_of(count, hidden)
        thresholds = thresholds_of(plane_scores(x, weights, bits, activation), mixed_shares(count))
        found = by_native(x, weights, thresholds, bits, activation, isa)
        check_same(found, plane_ffn_torch(x, weights, thresholds, bits, activation))


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("shape", [(9, 65, 100), (5, 576, 1536)], ids=str)
def test_on_cuda_it_is_what_it_is_on_a_cpu(shape: tuple[int, int, int], gated: bool, bits: int) -> None:
    tokens, hidden, width = shape
    weights, x = weights_of(hidden, width, gated, biased=True), tokens_of(tokens, hidden)
    thresholds = thresholds_of(plane_scores(x, weights, bits, "relu"), mixed_shares(tokens))
    found = plane_ffn(x.cuda(), on_cuda(weights), thresholds.cuda(), bits, "relu")
    expected = plane_ffn_torch(x, weights, thresholds, bits, "relu")
    check_same(PlaneResult(found.y.cpu(), found.counts.cpu()), expected)


def test_native_is_torch_in_shapes_drawn_at_random() -> None:
    draw = random.Random(0)
    for seed in range(60):
        count, hidden, width = draw.randrange(1, 20), draw.randrange(1, 300), draw.randrange(1, 400)
        bits, activation = draw.randrange(1, 5), draw.choice(ACTIVATIONS)
        refined = draw.randrange(bits + 1, 9)
        weights = weights_of(hidden, width, draw.random() < 0.5, draw.random() < 0.5, seed, refined)
        x = tokens_of(count, hidden)
        thresholds = thresholds_of(plane_scores(x, weights, bits, activation), mixed_shares(count))
        check_same(
            by_native(x, weights, thresholds, bits, activation),
            plane_ffn_torch(x, weights, thresholds, bits, activation),
        )


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("tokens", [1, 9])
def test_reading_all_of_down_gives_the_bits_of_reading_rows(isa: str, tokens: int) -> None:
    """1,200 neurons are more than one sum of 32 bits may hold."""
    weights, x = weights_of(65, 1200, biased=True), tokens_of(tokens, 65)
    packed, every = packed_by_hand(weights, 4), torch.full((tokens, 2), ALWAYS)
    whole = pack_digits(weights.down, weights.down_scale, weights.down_bias)
    found = [
        plane_ffn_native(x, each, every, "silu", plane_library(isa), isa)[0]
        for each in (packed, replace(packed, whole=whole.layer))
    ]
    assert found[0].equal(found[1]) and found[0].any()


@pytest.mark.parametrize("isa", PLANE_ISAS)
def test_exact_values_are_those_of_the_undivided_weights(isa: str) -> None:
    """Largest weights and activations, so that a sum that is cut short shows."""
    weights, x = weights_of(4096, 3, gated=False), torch.ones(1, 4096)
    weights = replace(weights, up=torch.tensor([127, -127, 1], dtype=torch.int8)[:, None].repeat(1, 4096))
    result = by_native(x, weights, torch.full((1, 2), ALWAYS), 3, "relu", isa)
    h = (weights.up.double() @ torch.ones(4096).double() * weights.up_scale).relu()
    expected = (weights.down.double() @ h) * weights.down_scale
    assert (result.y[0] - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("refined", [2, 3, 4, 5, 6, 7])
def test_refined_values_are_those_of_the_high_bits_alone(isa: str, refined: int) -> None:
    weights, x = weights_of(70, 40, gated=False, biased=True, refined=refined), tokens_of(5, 70)
    step = 2 ** (8 - refined)
    rows = (weights.up.double() / step).floor() * step + (step - 1) / 2
    scale = x.abs().amax(1, keepdim=True).double() / 127
    integers = (x.double() / scale).round()
    assert weights.up_bias is not None and weights.down_bias is not None
    h = (integers @ rows.T * scale * weights.up_scale + weights.up_bias).relu()
    expected = h @ weights.down.double().T * weights.down_scale + weights.down_bias
    result = by_native(x, weights, torch.full((5, 2), ALWAYS), 1, "relu", isa)
    assert (result.y - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_nothing_above_the_threshold_leaves_the_bias_and_everything_counts_all() -> None:
    weights, x = weights_of(40, 50, biased=True), tokens_of(2, 40)
    thresholds = torch.tensor([[NEVER, NEVER], [ALWAYS, ALWAYS]])
    result = by_native(x, weights, thresholds, 4, "silu")
    assert weights.down_bias is not None and torch.equal(result.y[0], weights.down_bias)
    assert result.active.tolist() == result.fine.tolist() == [0, 50]


def test_a_token_of_zeros_is_computed() -> None:
    weights, x = weights_of(40, 50, biased=True), torch.zeros(1, 40)
    thresholds = torch.full((1, 2), ALWAYS)
    check_same(by_native(x, weights, thresholds, 3, "gelu"), plane_ffn_torch(x, weights, thresholds, 3, "gelu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_token_that_is_no_number_is_not_hidden_and_harms_no_other(value: float) -> None:
    weights, x = weights_of(40, 50, biased=True), tokens_of(3, 40)
    thresholds = torch.full((3, 2), 0.1)
    healthy = by_native(x, weights, thresholds, 4, "silu").y
    x[1, 7] = value
    for call in (by_native, plane_ffn_torch):
        y = call(x, weights, thresholds, 4, "silu").y
        assert y[1].isnan().all() and (y[[0, 2]] - healthy[[0, 2]]).abs().max() <= 1e-5 * healthy.abs().max()


# --- a row depends on nothing but itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", PLANE_ISAS)
def test_a_row_has_the_same_bits_alone_in_any_batch_and_on_any_threads(isa: str) -> None:
    weights, x = weights_of(100, 700), tokens_of(21, 100)
    thresholds = thresholds_of(plane_scores(x, weights, 4, "silu"), mixed_shares(21))
    together = on_threads(lambda: by_native(x, weights, thresholds, 4, "silu", isa).y)
    alone = torch.cat([by_native(x[i : i + 1], weights, thresholds[i : i + 1], 4, "silu", isa).y for i in range(21)])
    assert all(torch.equal(each, alone) for each in together)
    turned = by_native(x.flip(0), weights, thresholds.flip(0), 4, "silu", isa).y
    assert torch.equal(turned.flip(0), alone)


def test_what_is_counted_is_what_passes_the_thresholds() -> None:
    weights, x = weights_of(64, 90), tokens_of(12, 64)
    scores = plane_scores(x, weights, 3, "silu")
    thresholds = thresholds_of(scores, mixed_shares(12))
    result = by_native(x, weights, thresholds, 3, "silu")
    computed, refined = scores.chosen(thresholds)
    assert torch.equal(result.active, computed.sum(-1)) and torch.equal(result.fine, refined.sum(-1))
    assert 0 < int((refined & ~computed).sum()) and 0 < int((computed & ~refined).sum())


# --- the choice -------------------------------------------------------------------------------------------------------


def test_a_neuron_takes_the_cheapest_of_being_left_out_taken_coarse_and_refined() -> None:
    """With ratio 1 a row of down and low planes cost threshold^2 each, beside what stays wrong."""
    draw = torch.Generator().manual_seed(0)
    scores = NeuronScores(*(3 * torch.rand(1, 400, generator=draw) for _ in range(3)))
    computed, refined = scores.chosen(torch.ones(1, 2))
    value, doubt = scores.value.square(), scores.doubt.square()
    paid = torch.where(refined, 2.0, torch.where(computed, 1 + doubt, value + doubt))  # at most: a row may be saved
    assert bool((paid <= torch.minimum(value + doubt, 1 + doubt) + 1e-6).all())
    assert torch.equal(computed[refined], scores.known[refined] > 1) and 0 < int(refined.sum()) < 400


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.3])
def test_the_thresholds_below_which_neurons_are_read_are_those_of_the_choice(ratio: float) -> None:
    draw = torch.Generator().manual_seed(1)
    scores = NeuronScores(*(torch.rand(3, 50, generator=draw) for _ in range(3)))
    for threshold in (0.1, 0.4, 0.8):
        computed, refined = scores.chosen(torch.tensor([[threshold, threshold * ratio]]).expand(3, 2))
        assert torch.equal(refined, scores.refined_below(ratio) > threshold)
        assert torch.equal(refined | computed, scores.touched_below(ratio) > threshold)


def test_together_a_step_chooses_what_any_of_its_tokens_would_alone_and_more() -> None:
    weights, x = weights_of(64, 300), tokens_of(11, 64)
    scores = plane_scores(x, weights, 4, "silu")
    thresholds = scores.value.quantile(0.8).expand(11, 2).contiguous()
    own = [each.any(0) for part in (slice(0, 8), slice(8, 11)) for each in _part(scores, part).chosen(thresholds[part])]
    computed, refined = scores.chosen_together(thresholds)
    for group, (token, alone) in zip((0, 8), (own[:2], own[2:]), strict=True):
        assert bool(((computed | refined)[group] >= (token | alone)).all())
        assert torch.equal(computed[group], computed[min(group + 7, 10)])
    assert int((computed | refined)[0].sum()) > int((own[0] | own[1]).sum())


def _part(scores: NeuronScores, part: slice) -> NeuronScores:
    return NeuronScores(*(each[part] for each in scores))


@pytest.mark.parametrize("isa", PLANE_ISAS)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_together_native_is_torch_too(isa: str, gated: bool) -> None:
    for count, hidden, width in SHAPES:
        weights, x = weights_of(hidden, width, gated), tokens_of(count, hidden)
        thresholds = thresholds_of(plane_scores(x, weights, 3, "silu"), mixed_shares(count))
        expected = plane_ffn_torch(x, weights, thresholds, 3, "silu", together=True)
        check_same(by_native(x, weights, thresholds, 3, "silu", isa, together=True), expected)


@pytest.mark.parametrize("call", ["native", "torch"])
def test_together_a_token_that_is_no_number_harms_no_other(call: str) -> None:
    weights, x = weights_of(64, 300), tokens_of(4, 64)
    thresholds = thresholds_of(plane_scores(x, weights, 4, "silu"), [(0.3, 0.1)] * 4)

    def y(x: Tensor, thresholds: Tensor) -> Tensor:
        if call == "native":
            found: PlaneResult = by_native(x, weights, thresholds, 4, "silu", together=True)
        else:
            found = plane_ffn_torch(x, weights, thresholds, 4, "silu", together=True)
        return found.y

    healthy = y(x[:3], thresholds[:3])
    x[3, 5] = float("nan")
    beside = y(x, thresholds)
    assert beside[3].isnan().all() and torch.allclose(beside[:3], healthy, atol=1e-6 * float(healthy.abs().max()))


def test_alone_a_token_chooses_together_what_it_chooses_anyway() -> None:
    weights, x = weights_of(64, 300), tokens_of(1, 64)
    thresholds = thresholds_of(plane_scores(x, weights, 4, "silu"), [(0.4, 0.2)])
    check_same(
        by_native(x, weights, thresholds, 4, "silu", together=True), by_native(x, weights, thresholds, 4, "silu")
    )


# --- the door ---------------------------------------------------------------------------------------------------------


def test_packed_weights_answer_through_the_door_for_their_bits_alone() -> None:
    if plane_isa(library()) == "portable":
        pytest.skip("this processor has no vector instructions for planes")
    weights, x = weights_of(64, 90), tokens_of(4, 64)
    packed = packed_weights(weights, 4)
    assert packed.packed is not None
    thresholds = thresholds_of(plane_scores(x, weights, 4, "silu"), mixed_shares(4))
    assert torch.equal(plane_ffn(x, packed, thresholds, 4, "silu").y, by_native(x, weights, thresholds, 4, "silu").y)
    for bits, tile in ((3, 1), (4, 8)):
        expected = plane_ffn_torch(x, weights, thresholds, bits, "silu", tile)
        assert torch.equal(plane_ffn(x, packed, thresholds, bits, "silu", tile).y, expected.y)


def test_the_implementation_depends_on_no_number_of_tokens() -> None:
    for isa in PLANE_ISAS:
        assert len({choose_plane_ffn("cpu", tokens, False, isa) for tokens in (1, 2, 8, 1000)}) == 1
    assert choose_plane_ffn("cpu", 1, False, "avx2") == "native"
    for other in (("cpu", 1, False, None), ("cpu", 1, True, "avx2"), ("cpu", 0, False, "avx2"), ("cuda", 1, False, "")):
        assert choose_plane_ffn(*other) == "torch"


def test_no_tokens_are_no_rows() -> None:
    weights = packed_weights(weights_of(64, 90), 4)
    result = plane_ffn(torch.empty(0, 64), weights, torch.empty(0, 2), 4, "silu")
    assert result.y.shape == (0, 64) and result.active.shape == (0,)


def test_bf16_activations_give_bf16() -> None:
    weights, x = packed_weights(weights_of(64, 90), 4), tokens_of(2, 64).bfloat16()
    thresholds = torch.full((2, 2), ALWAYS)
    found, expected = (
        plane_ffn(x, weights, thresholds, 4, "silu").y,
        plane_ffn_torch(x, weights, thresholds, 4, "silu").y,
    )
    assert found.dtype == torch.bfloat16 and (found - expected).abs().max() <= 0.01 * expected.abs().max()


def test_operands_that_do_not_fit_are_refused() -> None:
    weights = weights_of(64, 90)
    with pytest.raises(ValueError, match=r"x must be \[tokens, 64\] for these weights, it is \[2, 63\]"):
        plane_ffn(torch.zeros(2, 63), weights, torch.zeros(2, 2), 4, "silu")
    with pytest.raises(ValueError, match=r"thresholds must be float32 \[2, 2\]"):
        plane_ffn(torch.zeros(2, 64), weights, torch.zeros(1, 2), 4, "silu")
    with pytest.raises(ValueError, match="1 to 4 bits"):
        packed_by_hand(weights, 5)
    with pytest.raises(ValueError, match="refined_bits is 3, it must lie above bits, 3"):
        packed_by_hand(replace(weights, refined_bits=3), 3)
    assert packed_weights(weights, 5).packed is None and packed_weights(weights, 4, tile=8).packed is None
    assert packed_weights(weights_of(MAX_HIDDEN + 1, 1, gated=False), 4).packed is None


@pytest.mark.parametrize(("hidden", "width", "gated", "bits"), [(256, 512, True, 4), (512, 96, False, 4)])
def test_the_bytes_of_every_neuron_are_those_that_lie_in_memory(
    hidden: int, width: int, gated: bool, bits: int
) -> None:
    packed = packed_by_hand(weights_of(hidden, width, gated=gated), bits)
    shape = FFNShape(hidden, width, gated, packed.biased, packed.down_bias is not None)
    assert 0 <= packed.nbytes - plane_ffn_bytes(shape, bits, width, width) < 64 * width / 16


def test_planes_that_divide_take_about_the_bytes_of_plain_int8() -> None:
    shape = FFNShape(576, 1536, True)
    assert plane_ffn_bytes(shape, 4, 1536, 1536) < 1.02 * int8_ffn_bytes(shape)
