"""What high bits foresee, what a neuron is worth, and where a tier's bytes go."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moesaic.compress.moefy.budget import EVERYTHING, PlaneScores, thresholds_for
from moesaic.compress.moefy.fit import Regression, fitted
from moesaic.compress.moefy.importance import gradients, neuron_importance
from moesaic.compress.windows import Batch
from moesaic.kernels.activations import ACTIVATIONS
from moesaic.kernels.plane_ffn import PlaneWeights, plane_products
from moesaic.kernels.planes.choice import NeuronScores
from moesaic.kernels.planes.coarse import CoarseFit, foresee
from moesaic.models.checkpoint import load_transformer, open_checkpoint
from moesaic.models.compute import Compute
from moesaic.models.context import CausalContext
from moesaic.models.transformer import Layer, Transformer


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fit_of(width: int, scored: int, error: float) -> CoarseFit:
    ones = torch.ones(scored, width)
    return CoarseFit(ones, 0 * ones, error * ones, torch.ones(width))


# --- what is to be expected of an activation --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [0.1, 1.0, 5.0])
def test_a_foreseen_relu_has_the_mean_and_deviation_of_many_draws(error: float) -> None:
    z = torch.linspace(-4, 4, 17).unsqueeze(0)
    many = (z + error * drawn(200_000, 1)).relu()
    value, deviation = foresee([z], fit_of(17, 1, error), "relu")
    assert (value - many.mean(0)).abs().max() < 0.02 * error
    assert (deviation - many.std(0)).abs().max() < 0.02 * error


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_a_small_error_moves_a_smooth_activation_by_its_slope(activation: str) -> None:
    z = torch.linspace(-6, 6, 25).unsqueeze(0)
    _, deviation = foresee([z], fit_of(25, 1, 1e-2), activation)
    act = ACTIVATIONS[activation]
    slope = (act(z + 1e-2) - act(z - 1e-2)) / 2e-2
    assert (deviation - slope.abs() * 1e-2).abs().max() < 1e-4


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_a_foreseen_gated_neuron_has_the_mean_and_deviation_of_many_draws(activation: str) -> None:
    gate, up = torch.linspace(-3, 3, 13).unsqueeze(0), torch.linspace(2, -2, 13).unsqueeze(0)
    error = 0.05
    many = ACTIVATIONS[activation](gate + error * drawn(100_000, 1)) * (up + error * drawn(100_000, 1, seed=1))
    value, deviation = foresee([gate, up], fit_of(13, 2, error), activation)
    assert (value - many.mean(0)).abs().max() < 0.05 * error
    assert (deviation - many.std(0)).abs().max() < 0.1 * error


def test_without_doubt_the_value_is_the_activation_itself() -> None:
    z = drawn(3, 8)
    value, deviation = foresee([z, z], fit_of(8, 2, 0.0), "relu")
    assert torch.allclose(value, z.relu() * z) and not deviation.any()


# --- the regression ---------------------------------------------------------------------------------------------------


def test_a_planted_line_is_found_in_any_cuts() -> None:
    x, slope, intercept = drawn(5000, 3), torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.1, 0.0, -3.0])
    y = x * slope + intercept + 0.25 * drawn(5000, 3, seed=1)
    found = Regression.empty(3)
    for part in ((0, 1), (1, 1000), (1000, 5000)):
        found.add(x[slice(*part)], y[slice(*part)])
    for value, wanted in zip(found.solved(), (slope, intercept, torch.full((3,), 0.25)), strict=True):
        assert (value - wanted).abs().max() < 0.02


def test_a_product_that_never_changes_is_foreseen_by_its_mean() -> None:
    found = Regression.empty(1)
    found.add(torch.full((10, 1), 3.0), torch.full((10, 1), 5.0))
    slope, intercept, error = (float(each) for each in found.solved())
    assert 3 * slope + intercept == pytest.approx(5.0) and error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fitted_products_are_nearer_on_tokens_that_no_fit_has_seen(bits: int) -> None:
    rows = (drawn(48, 64) * 30).round().clamp(-127, 127).to(torch.int8)
    scale = torch.full((48,), 0.01)
    plain = CoarseFit.unfitted([scale], [None], torch.ones(48))
    weights = PlaneWeights(rows, rows.T.contiguous(), scale, torch.ones(64), plain)
    seen, unseen = drawn(4000, 64, seed=1) + 0.5, drawn(500, 64, seed=2) + 0.5
    fit = fitted([seen.view(4, 1000, 64)], weights, bits, torch.ones(48))
    ((dot, exact),) = plane_products(unseen, weights, bits)
    off = [(dot * each.scale.float() + each.bias.float() - exact).square().mean() for each in (fit, plain)]
    assert off[0] < off[1] and float(off[0].sqrt()) == pytest.approx(
        float(fit.error.float().square().mean().sqrt()), rel=0.1
    )


# --- what a neuron is worth -------------------------------------------------------------------------------------------


def test_importance_foretells_what_leaving_a_neuron_out_costs() -> None:
    """Half the squared value times importance, in nats of KL divergence, summed over single neurons of each layer."""
    checkpoint = open_checkpoint("stories260k")
    ids = torch.randint(3, 500, (8, 64), generator=torch.Generator().manual_seed(0))
    model = load_transformer(checkpoint, torch.device("cpu"))
    importance = neuron_importance(model, ids)
    foretold, measured = 0.0, 0.0
    for index in range(5):
        for neuron in range(0, 172, 43):
            share, cost = _left_out(model, ids, index, neuron, importance[index])
            foretold, measured = foretold + share, measured + cost
    assert measured == pytest.approx(foretold, rel=0.5)


@torch.inference_mode()
def _left_out(model: Transformer, ids: Tensor, index: int, neuron: int, worth: Tensor) -> tuple[float, float]:
    """(nats a token as foretold, as measured)"""
    layer = model.layers[index]
    assert isinstance(layer, Layer)
    values: list[Tensor] = []
    dense, hidden = torch.log_softmax(model(ids), -1), layer.ffn.hidden

    def without(x: Tensor, compute: Compute | None = None) -> Tensor:
        h = hidden(x).clone()
        values.append(h[..., neuron].clone())
        h[..., neuron] = 0
        return h

    layer.ffn.hidden = without  # type: ignore[method-assign]
    changed = torch.log_softmax(model(ids), -1)
    layer.ffn.hidden = hidden  # type: ignore[method-assign]
    kl = (dense.exp() * (dense - changed)).sum(-1).mean()
    return float((values[0] * worth[neuron]).square().mean() / 2), float(kl)


def test_going_back_layer_by_layer_gives_what_one_pass_through_the_model_does() -> None:
    model = load_transformer(open_checkpoint("stories260k"), torch.device("cpu"), "float32")
    ids = torch.randint(3, 500, (2, 32), generator=torch.Generator().manual_seed(0))
    found = list(gradients(model, Batch(ids), torch.Generator().manual_seed(1)))[::-1]
    (x, turn), given = model.embed(ids), []
    for layer in model.layers:
        given.append(layer(x.requires_grad_(), turn, CausalContext()))
        x = given[-1]
    logits = model.head(model.norm(x)).flatten(0, 1)
    labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=torch.Generator().manual_seed(1))
    whole = torch.autograd.grad(-functional.cross_entropy(logits, labels.squeeze(1), reduction="sum"), given)
    for a, b in zip(found, whole, strict=True):
        torch.testing.assert_close(a, b.flatten(0, 1), atol=1e-5, rtol=1e-3)


def test_importance_is_the_same_for_a_seed_and_has_a_figure_for_every_neuron() -> None:
    ids = torch.randint(3, 500, (2, 32), generator=torch.Generator().manual_seed(0))
    model = load_transformer(open_checkpoint("stories260k"), torch.device("cpu"))
    first, second = (neuron_importance(model, ids, 1) for _ in range(2))
    assert all(torch.equal(a, b) and bool((a > 0).all()) for a, b in zip(first, second, strict=True))


# --- the budget -------------------------------------------------------------------------------------------------------


def layers_of(count: int) -> list[PlaneScores]:
    """Layers whose neurons are worth more the later they come."""
    found = []
    for i in range(count):
        scores = PlaneScores(fixed_bytes=30, down_bytes=40, low_bytes=40, whole_bytes=100)
        value, doubt = 2.0**i * drawn(400, 50, seed=i), 0.2 * 2.0**i * drawn(400, 50, seed=9 + i)
        scores.add(NeuronScores(value.abs(), doubt.abs(), (value + doubt).abs()))
        found.append(scores)
    return found


@pytest.mark.parametrize("share", [0.35, 0.5, 0.9])
def test_one_multiplier_spends_the_share_and_more_of_it_where_more_is_at_stake(share: float) -> None:
    layers = layers_of(3)
    thresholds = thresholds_for(layers, share, "global")
    spent = [layer.bytes_at(threshold) for layer, threshold in zip(layers, thresholds, strict=True)]
    assert len(set(thresholds)) == 1 and sum(spent) == pytest.approx(share * 300, rel=0.01)
    assert spent == sorted(spent)


def test_equal_shares_are_the_same_in_every_layer() -> None:
    layers = layers_of(3)
    thresholds = thresholds_for(layers, 0.5, "uniform")
    assert [layer.bytes_at(threshold) for layer, threshold in zip(layers, thresholds, strict=True)] == pytest.approx(
        [50] * 3, rel=0.01
    )


def test_a_budget_for_everything_takes_everything() -> None:
    layers = layers_of(2)
    assert thresholds_for(layers, 1.2, "global") == [EVERYTHING] * 2
    assert layers[0].thresholds(EVERYTHING).tolist() == [EVERYTHING] * 2


def test_neurons_that_are_certain_to_give_nothing_are_not_computed_for_a_budget_that_has_room() -> None:
    scores = PlaneScores(fixed_bytes=20, down_bytes=40, low_bytes=40, whole_bytes=100)
    scores.add(NeuronScores(*[drawn(100, 50).relu()] * 3))
    (threshold,) = thresholds_for([scores], 0.9, "global")
    assert threshold > 0 and scores.bytes_at(threshold) < 90


def test_the_bytes_foretold_at_a_threshold_are_those_of_the_choice() -> None:
    scores = PlaneScores(fixed_bytes=10, down_bytes=30, low_bytes=60, whole_bytes=100)
    seen = NeuronScores(*(drawn(200, 50, seed=seed).abs() for seed in range(3)))
    scores.add(seen)
    for threshold in (0.2, 0.7, 1.5):
        computed, refined = seen.chosen(scores.thresholds(threshold).expand(200, 2))
        spent = 10 + 30 * float(computed.float().mean()) + 60 * float(refined.float().mean())
        assert scores.bytes_at(threshold) == pytest.approx(spent, rel=0.01)
        assert scores.shares_at(threshold)[2] == pytest.approx(float((computed | refined).float().mean()), abs=0.01)


def test_low_planes_that_cost_twice_are_read_at_a_threshold_higher_by_the_root_of_two() -> None:
    scores = PlaneScores(fixed_bytes=10, down_bytes=30, low_bytes=60, whole_bytes=100)
    first, second = scores.thresholds(3.0).tolist()
    assert second / first == pytest.approx(math.sqrt(2))
