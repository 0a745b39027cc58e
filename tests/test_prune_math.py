"""Pruning without a model: statistics in any cuts, a ranking that keeps its limits, a bias that keeps the mean."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moesaic.compress.prune.choose import choose_neurons, choose_neurons_uniform
from moesaic.compress.prune.compensate import compensation_bias, removed_neurons
from moesaic.compress.prune.methods import METHODS, LayerNeurons
from moesaic.compress.prune.scores import flap_scores, magnitude_scores, random_scores, standardise
from moesaic.compress.prune.statistics import NeuronStatistics
from moesaic.models.checkpoint import load
from moesaic.models.errors import RecipeError
from moesaic.models.ffn.dense import FFN


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gathered(parts: Any, width: int = 7) -> NeuronStatistics:
    found = NeuronStatistics.empty(width)
    for part in parts:
        found.add(part)
    return found


def assert_same(one: NeuronStatistics, other: NeuronStatistics) -> None:
    assert one.count == other.count
    for name in ("mean", "variance"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("rows", [1, 2, 13, 100, 999])
def test_statistics_do_not_depend_on_the_cuts(rows: int) -> None:
    h = randn(1000, 7) * torch.logspace(-3, 3, 7) + 1
    assert_same(gathered(torch.split(h, rows)), gathered([h]))


def test_statistics_are_those_of_numpy_even_far_from_zero() -> None:
    h = randn(1000, 7) + 10_000  # a sum of squares in fp32 would keep nothing of the variance
    found, exact = gathered(torch.split(h, 37)), h.double().numpy()
    np.testing.assert_allclose(found.mean.numpy(), exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.variance.numpy(), exact.var(0), rtol=1e-10)


@pytest.mark.parametrize("cut", [0, 1, 400, 1000])
def test_merged_statistics_are_those_of_all_tokens(cut: int) -> None:
    h = randn(1000, 7) + 3
    one, other = gathered([h[:cut]]), gathered([h[cut:]])
    one.merge(other)
    assert_same(one, gathered([h]))


def test_a_merge_leaves_the_other_as_it_was() -> None:
    one, other = gathered([randn(9, 7)]), gathered([randn(5, 7, seed=1)])
    one.merge(other)
    one.add(randn(4, 7))
    assert_same(other, gathered([randn(5, 7, seed=1)]))


def test_nothing_is_known_before_the_first_token() -> None:
    empty = gathered([torch.empty(0, 7)])
    assert empty.count == 0 and not empty.variance.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_are_refused_with_their_neuron(bad: float) -> None:
    h = randn(3, 7)
    h[1, 4] = bad
    with pytest.raises(ValueError, match="neuron 4"):
        gathered([h])


def test_the_flap_score_is_what_the_output_loses_when_a_neuron_becomes_its_mean() -> None:
    h, down = randn(500, 7) * 3 + 2, randn(5, 7, seed=1)
    scores = flap_scores(gathered([h]).variance, down)
    for j in range(7):
        frozen = h.clone()
        frozen[:, j] = h[:, j].mean()
        lost = ((h - frozen) @ down.T).square().sum(1).mean()
        assert float(scores[j]) == pytest.approx(float(lost), rel=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_magnitude_ignores_how_a_neuron_divides_its_scale(gated: bool) -> None:
    up, down, gate = randn(7, 5), randn(5, 7, seed=1), randn(7, 5, seed=2) if gated else None
    scale = torch.logspace(-2, 2, 7)
    ours, theirs = magnitude_scores(up * scale[:, None], down / scale, gate), magnitude_scores(up, down, gate)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    assert float(theirs[3]) == pytest.approx(
        float(up[3].norm() * down[:, 3].norm() * (gate[3].norm() if gate is not None else 1)), rel=1e-6
    )


def test_random_scores_are_their_seed() -> None:
    assert torch.equal(random_scores(50, 3), random_scores(50, 3))
    assert not torch.equal(random_scores(50, 3), random_scores(50, 4))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_tells_neurons_apart(name: str) -> None:
    (ffn, *_) = (module for module in load("stories260k").modules() if isinstance(module, FFN))
    found = gathered([randn(50, ffn.width) * torch.arange(ffn.width)], ffn.width)
    scores = METHODS[name].scores(LayerNeurons(ffn, found, seed=3))
    assert scores.shape == (ffn.width,) and bool(scores.isfinite().all()) and len(set(scores.tolist())) > ffn.width // 2


def test_standardised_scores_forget_scale_and_offset() -> None:
    scores = randn(50).double()
    torch.testing.assert_close(standardise(scores * 1e6 + 5), standardise(scores), rtol=1e-9, atol=1e-9)
    assert float(standardise(scores).std()) == pytest.approx(1)
    assert not standardise(torch.full((9,), 0.1)).any() and standardise(torch.ones(1)).tolist() == [0.0]


def layers(*widths: int) -> list[Tensor]:
    return [random_scores(width, seed) for seed, width in enumerate(widths)]


@pytest.mark.parametrize("remove", [0.0, 0.013, 0.25, 0.5, 0.9])
def test_the_lowest_scores_of_all_layers_go_and_exactly_as_many_as_asked(remove: float) -> None:
    scores = layers(100, 37, 64)
    kept = choose_neurons(scores, remove)
    assert sum(map(len, kept)) == 201 - round(remove * 201)
    assert all(bool((each.diff() > 0).all()) for each in kept)  # ascending, none twice
    lowest_kept = min(float(s[k].min()) for s, k in zip(scores, kept, strict=True))
    gone = [s[removed_neurons(len(s), k)] for s, k in zip(scores, kept, strict=True)]
    assert all((each < lowest_kept).all() for each in gone)


@pytest.mark.parametrize("multiple", [1, 8, 16, 30])
@pytest.mark.parametrize("remove", [0.0, 0.1, 0.5, 0.65])
def test_widths_are_multiples_and_the_total_is_as_near_as_they_allow(remove: float, multiple: int) -> None:
    scores = layers(128, 100, 64, 128)
    kept = [len(each) for each in choose_neurons(scores, remove, minimum_keep=20, multiple=multiple)]
    for count, each in zip(kept, scores, strict=True):
        assert count == len(each) or (count % multiple == 0 and count >= 20)
    assert abs(420 - sum(kept) - remove * 420) <= multiple / 2 + 0.5


def test_a_layer_loses_its_own_lowest_even_in_runs() -> None:
    scores = layers(64, 64)
    for each, kept in zip(scores, choose_neurons(scores, 0.4, multiple=8), strict=True):
        assert torch.equal(kept, each.topk(len(kept)).indices.sort().values)


def test_a_poor_layer_stops_at_its_minimum_and_the_others_give_the_rest() -> None:
    poor, rich = torch.arange(40.0), 100 + torch.arange(40.0)
    kept = choose_neurons([poor, rich], 0.5, minimum_keep=10)
    assert [len(each) for each in kept] == [10, 30]
    assert kept[0].tolist() == list(range(30, 40)) and kept[1].tolist() == list(range(10, 40))


@pytest.mark.parametrize("multiple", [1, 3])
def test_equal_scores_go_by_layer_then_index(multiple: int) -> None:
    kept = choose_neurons([torch.full((9,), 0.1), torch.full((9,), 0.1)], 1 / 3, minimum_keep=3, multiple=multiple)
    assert kept[0].tolist() == [6, 7, 8] and kept[1].tolist() == list(range(9))


def test_equal_scores_go_in_whole_runs_whatever_their_means_round_to() -> None:
    kept = choose_neurons([torch.full((11,), 0.1, dtype=torch.float64)], 3 / 11, multiple=4)
    assert kept[0].tolist() == list(range(3, 11))


def test_a_narrow_layer_is_left_whole() -> None:
    kept = choose_neurons([torch.arange(6.0), 10 + torch.arange(64.0)], 0.5, minimum_keep=8, multiple=8)
    assert len(kept[0]) == 6


def test_uniform_takes_the_same_share_of_each_layer() -> None:
    scores = [torch.arange(40.0), 100 + torch.arange(80.0)]
    kept = choose_neurons_uniform(scores, 0.25)
    assert kept[0].tolist() == list(range(10, 40)) and kept[1].tolist() == list(range(20, 80))


@pytest.mark.parametrize("remove", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(remove: float) -> None:
    with pytest.raises(RecipeError, match="at least 0 and less than 1"):
        choose_neurons(layers(10), remove)


def test_more_than_the_limits_leave_is_refused_with_the_way_out() -> None:
    with pytest.raises(RecipeError, match="only 60 can: set remove to 0.600"):
        choose_neurons(layers(50, 50), 0.7, minimum_keep=20)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="layer 1"):
        choose_neurons([torch.zeros(4), torch.tensor([0.0, float("nan")])], 0.5)


def test_the_bias_stands_in_exactly_for_neurons_that_never_change() -> None:
    down, bias = torch.randint(-8, 9, (5, 7), generator=torch.Generator().manual_seed(0)).float(), torch.arange(5.0)
    h, kept = randn(20, 7).mul(8).round(), torch.tensor([1, 4, 5])
    gone = removed_neurons(7, kept)
    h[:, gone] = torch.tensor([1.0, -2.0, 3.0, 0.5])
    added = compensation_bias(down, gathered([h]).mean, kept, bias)
    assert gone.tolist() == [0, 2, 3, 6]
    assert torch.equal(h[:, kept] @ down[:, kept].T + added, h @ down.T + bias)


def test_no_constant_serves_better_than_the_bias() -> None:
    h, down, kept = randn(200, 7) + 1, randn(5, 7, seed=1), torch.tensor([0, 3])
    missing = h @ down.T - h[:, kept] @ down[:, kept].T
    added = compensation_bias(down, gathered([h]).mean, kept)
    best = (missing - added).square().mean()
    for seed in range(5):
        assert (missing - added - 0.01 * randn(5, seed=seed)).square().mean() > best
    assert torch.allclose(missing.mean(0), added, atol=1e-5)
