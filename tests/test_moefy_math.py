"""MoEfication without a model: splits, thresholds, routers and compensations keep what they promise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moesaic.bench.retention.masks import above, neuron_mask, random_tiles, top_tiles
from moesaic.bench.retention.random_split import random_split
from moesaic.compress.moefy.cluster import Split, assign_by_regret, balanced_kmeans
from moesaic.compress.moefy.norms import tile_norms
from moesaic.compress.moefy.router import (
    Router,
    RouterTraining,
    captured_mass,
    centroids,
    train_router,
)
from moesaic.compress.moefy.thresholds import ScoreHistogram
from moesaic.kernels.route import route_scores_torch

SPLITS = [balanced_kmeans, random_split]
Splitter = Callable[..., Split]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def groups(count: int, size: int, noise: float, inputs: int = 24) -> Tensor:
    """`count` groups of `size` vectors of any length around one direction each, shuffled."""
    rows = functional.normalize(randn(count, inputs), dim=1).repeat_interleave(size, dim=0)
    rows = (rows + noise * randn(*rows.shape, seed=1)) * torch.rand(len(rows), 1).add(0.5)
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(2))]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("neurons", "size"), [(96, 8), (100, 8), (97, 32), (5, 8), (8, 8), (20, 1), (9, 5)])
def test_a_split_is_a_permutation_into_experts_of_one_size(split: Splitter, neurons: int, size: int) -> None:
    found = split(randn(neurons, 6), size)
    assert sorted(found.order.tolist()) == list(range(neurons))
    counts = torch.bincount(found.labels).tolist()
    assert counts == [size] * (neurons // size) + ([neurons % size] if neurons % size else [])
    assert found.num_experts == len(counts)
    for expert in torch.split(found.order, size):
        assert bool((expert.diff() > 0).all()) and int(found.labels[expert].min()) == int(found.labels[expert].max())


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_its_seed(split: Splitter) -> None:
    vectors = randn(120, 6)
    one, same, other = (split(vectors, 8, seed) for seed in (3, 3, 4))
    assert torch.equal(one.order, same.order) and one.inertia == same.inertia
    assert not torch.equal(one.order, other.order)


def test_groups_are_found_exactly_whatever_their_vectors_lengths() -> None:
    vectors = groups(12, 16, noise=0.01)
    found = balanced_kmeans(vectors, 16)
    rows = functional.normalize(vectors, dim=1)[found.order].view(12, 16, -1)
    assert torch.bmm(rows, rows.mT).min() > 0.9 and found.inertia < 1


@pytest.mark.parametrize("noise", [0.05, 0.15, 1.0])
def test_clusters_are_tighter_than_chance(noise: float) -> None:
    vectors = groups(10, 20, noise)
    assert balanced_kmeans(vectors, 16).inertia < random_split(vectors, 16).inertia


def test_the_inertia_is_the_sum_of_squared_distances_from_the_means() -> None:
    vectors = randn(50, 6)
    found = balanced_kmeans(vectors, 8)
    parts = torch.split(functional.normalize(vectors, dim=1)[found.order], 8)
    expected = sum(float((part - part.mean(0)).square().sum()) for part in parts)
    assert found.inertia == pytest.approx(expected, rel=1e-5)


def test_no_exchange_of_two_neurons_makes_the_clusters_tighter_at_their_means() -> None:
    vectors = groups(6, 9, noise=0.3)
    found = balanced_kmeans(vectors, 8)
    rows, labels = functional.normalize(vectors, dim=1), found.labels
    means = torch.stack([rows[labels == e].mean(0) for e in range(found.num_experts)])
    cost = torch.cdist(rows, means).square()
    own, other = cost.gather(1, labels[:, None]), cost[:, labels]  # other[i, j]: i in the place of j
    change = other + other.T - own - own.T
    preferred = cost.argmin(1)[:, None] == labels  # the exchanges that are tried: into the nearest cluster
    assert float(change[preferred].min()) > -1e-5


def test_equal_vectors_still_fill_every_expert() -> None:
    found = balanced_kmeans(torch.ones(40, 4), 8)
    assert torch.bincount(found.labels).tolist() == [8] * 5 and found.inertia == pytest.approx(0, abs=1e-9)


def test_the_point_with_most_to_lose_is_served_first() -> None:
    cost = torch.tensor([[0.0, 1.0, 9.0], [0.0, 5.0, 9.0], [0.0, 2.0, 3.0]])
    assert assign_by_regret(cost, torch.tensor([1, 1, 1])).tolist() == [1, 0, 2]
    assert assign_by_regret(cost, torch.tensor([2, 1, 0])).tolist() == [1, 0, 0]


@pytest.mark.parametrize(("vectors", "size"), [(torch.ones(4, 2), 0), (torch.ones(0, 2), 4)])
def test_an_empty_expert_is_refused(vectors: Tensor, size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        balanced_kmeans(vectors, size)


def test_vectors_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        balanced_kmeans(torch.full((4, 2), float("nan")), 2)


def histogram(*parts: Tensor) -> ScoreHistogram:
    found = ScoreHistogram()
    for part in parts:
        found.add(part)
    return found


def scores_of(kind: str) -> Tensor:
    normal = randn(300, 400).double()
    kinds = {"normal": normal.abs(), "wide": (3 * normal).exp(), "relu": normal.relu(), "tiny": 1e-8 * normal.abs()}
    return (kinds | {"uniform": torch.rand(300, 400, generator=torch.Generator().manual_seed(0))})[kind].float()


@pytest.mark.parametrize("kind", ["normal", "wide", "relu", "tiny", "uniform"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.45])
def test_a_threshold_keeps_the_share_asked_for_within_a_two_hundredth(kind: str, share: float) -> None:
    scores = scores_of(kind)
    found = histogram(scores)
    threshold = found.threshold_for_share(share)
    kept = float((scores > threshold).double().mean())
    assert kept == pytest.approx(share, abs=0.001) and kept == pytest.approx(share, rel=0.02)
    assert found.share_above(threshold) == pytest.approx(share, abs=1e-9)


def test_a_histogram_does_not_depend_on_the_cuts() -> None:
    scores = scores_of("relu")
    whole, parts = histogram(scores), histogram(scores[:7], scores[7:100], scores[100:])
    assert torch.equal(parts.counts, whole.counts) and parts.highest == whole.highest
    torch.testing.assert_close(parts.energy, whole.energy, rtol=1e-12, atol=0)


def nonzero_share(found: ScoreHistogram) -> float:
    return float(found.counts[1:].sum() / found.counts.sum())


def test_more_than_what_is_not_zero_means_all_that_is_not_zero() -> None:
    scores = scores_of("relu")
    found = histogram(scores)
    assert nonzero_share(found) == pytest.approx(float((scores > 0).double().mean()))
    assert [found.threshold_for_share(share) for share in (nonzero_share(found), 0.6, 1.0)] == [0.0, 0.0, 0.0]
    assert found.share_above(0.0) == pytest.approx(nonzero_share(found))


def test_the_share_that_is_not_zero_means_threshold_zero_however_it_divides() -> None:
    for zeros in range(100):  # 1 / 49 * 49 is less than 1
        found = histogram(functional.pad(torch.ones(1), (0, zeros)))
        assert found.threshold_for_share(nonzero_share(found)) == 0


def test_a_score_counts_for_as_many_neurons_as_its_expert_has() -> None:
    found, energies = ScoreHistogram(), histogram(scores := torch.tensor([[1.0, 4.0], [2.0, 8.0]]))
    found.add(scores, torch.tensor([6.0, 2.0]).double())
    assert [found.share_above(limit) for limit in (0.5, 1.5, 3.0, 6.0)] == pytest.approx([1, 10 / 16, 4 / 16, 2 / 16])
    assert torch.equal(found.energy, energies.energy)


def test_a_share_of_nothing_keeps_nothing() -> None:
    scores = scores_of("wide")
    threshold = histogram(scores).threshold_for_share(0.0)
    assert not above(scores, threshold).any() and histogram(scores).share_above(threshold) == 0


def test_thresholds_fall_as_shares_rise() -> None:
    found = histogram(scores_of("normal"))
    thresholds = [found.threshold_for_share(i / 50) for i in range(51)]
    assert thresholds == sorted(thresholds, reverse=True) and thresholds[-1] == 0 < thresholds[-2]


def test_equal_scores_stay_or_go_together() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, 1.0, 2.0])
    found = histogram(scores)
    assert (scores > found.threshold_for_share(0.2)).tolist() == [False] * 4 + [True]
    assert (scores > found.threshold_for_share(0.8)).tolist() == [False] + [True] * 4


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.98])
def test_scores_close_together_are_told_apart_where_they_are_at_hand(share: float) -> None:
    scores = 0.993 + 0.006 * torch.rand(3000) ** 2  # a bin is wider than all of them
    found = histogram(scores).nearest_threshold(share, lambda limit: float((scores > limit).double().mean()))
    assert float((scores > found).double().mean()) == pytest.approx(share, rel=2e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-13, 1e9, 1e30])
def test_scores_beyond_the_bins_are_counted_and_kept_in_order(scale: float) -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, scale])
    found = histogram(scores)
    assert nonzero_share(found) == 0.75 and found.highest == max(1.0, torch.tensor(scale).item())
    share = 0.25 if scale > 1 else 0.5
    kept = scores > found.threshold_for_share(share)
    assert torch.equal(kept, scores >= (scale if scale > 1 else 1.0))


@pytest.mark.parametrize("kind", ["normal", "wide", "relu", "uniform"])
@pytest.mark.parametrize("discarded", [0.0, 0.001, 0.01, 0.05, 0.5])
def test_the_energy_that_goes_is_at_most_what_was_allowed_and_nearly_all_of_it(kind: str, discarded: float) -> None:
    scores = scores_of(kind)
    threshold = histogram(scores).threshold_for_energy(discarded)
    energy = scores.double().square()
    gone = float(energy[scores <= threshold].sum() / energy.sum())
    assert gone <= discarded * (1 + 1e-9)
    wider = float(energy[scores <= threshold * 2 ** (1 / 32)].sum() / energy.sum())
    assert wider > discarded or discarded == 0


def test_all_energy_may_go() -> None:
    scores = scores_of("normal")
    assert not above(scores, histogram(scores).threshold_for_energy(1.0)).any()


@pytest.mark.parametrize("bad", [-1e-9, float("nan"), float("inf")])
def test_scores_that_are_not_at_least_zero_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        histogram(torch.tensor([0.5, bad]))


@pytest.mark.parametrize("part", [-0.1, 1.1, float("nan")])
def test_parts_beyond_zero_and_one_are_refused(part: float) -> None:
    found = histogram(torch.ones(3))
    for threshold in (found.threshold_for_share, found.threshold_for_energy):
        with pytest.raises(ValueError, match="between 0 and 1"):
            threshold(part)


@pytest.mark.parametrize(("width", "size", "hidden"), [(40, 8, 6), (40, 4, 16), (41, 8, 16), (12, 1, 5), (9, 16, 4)])
def test_tile_norms_are_the_norms_of_the_outputs(width: int, size: int, hidden: int) -> None:
    h, down = randn(23, width), randn(hidden, width, seed=1)
    blocks = zip(torch.split(h, size, dim=1), torch.split(down, size, dim=1), strict=True)
    expected = torch.stack([(part @ block.T).norm(dim=1) for part, block in blocks], dim=1)
    torch.testing.assert_close(tile_norms(h, down, size), expected, rtol=1e-5, atol=1e-6)


def test_an_output_that_nearly_cancels_keeps_its_norm() -> None:
    """The square root of h' D' D h in fp32 would say 0, or hundreds of times too much."""
    down = torch.ones(16, 4) + 1e-5 * randn(16, 4).round()
    h = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    exact = (h.double() @ down.double().T).norm()
    assert float(tile_norms(h, down, 4)) == pytest.approx(float(exact), rel=0.05)


class Recorded:
    """A ReLU layer of 8 experts of 8 similar neurons, and 600 tokens that went through it."""

    def __init__(self) -> None:
        up = functional.normalize(randn(8, 16), dim=1).repeat_interleave(8, dim=0) + 0.1 * randn(64, 16, seed=1)
        self.up, self.x = up, 5 * randn(600, 16, seed=2)
        self.norms = 0.01 * tile_norms((self.x @ up.T).relu(), randn(16, 64, seed=3), 8)

    def train(self, **rest: Any) -> Router:
        settings: dict[str, Any] = {"width": 24, "epochs": 40, "batch": 64, "learning_rate": 1e-2} | rest
        initial = settings.pop("initial", None)
        return train_router(self.x, self.norms, RouterTraining(**settings), initial)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


def test_a_trained_router_foresees_the_norms_in_a_unit_of_their_own(recorded: Recorded) -> None:
    found = recorded.train()
    foreseen = route_scores_torch(recorded.x, found.first, found.second) * recorded.norms.square().mean().sqrt()
    error = (foreseen - recorded.norms).square().mean() / recorded.norms.var()
    assert error < 0.2 and found.epoch > 0
    assert 0.9 * found.perfect < found.captured <= found.perfect < 1


def test_a_router_is_its_seed(recorded: Recorded) -> None:
    one, same, other = (recorded.train(seed=seed, epochs=1) for seed in (1, 1, 2))
    assert torch.equal(one.first, same.first) and torch.equal(one.second, same.second)
    assert not torch.equal(one.first, other.first)


@pytest.mark.parametrize("width", [5, 8, 24])
def test_centroids_are_a_better_start_than_chance(recorded: Recorded, width: int) -> None:
    rows = centroids(recorded.up, 8)
    with_rows, without = (recorded.train(width=width, epochs=0, initial=each) for each in (rows, None))
    assert with_rows.epoch == 0 and with_rows.captured > without.captured + 0.05


def test_a_router_may_begin_as_the_centroids_themselves(recorded: Recorded) -> None:
    rows = centroids(recorded.up, 8)
    start = recorded.train(width=8, epochs=0, initial=rows)
    expected = recorded.x @ functional.normalize(rows, dim=1).T
    scores = route_scores_torch(recorded.x, start.first, start.second)
    for _ in range(2):
        scores = scores - 1 / scores  # squareplus, undone
    torch.testing.assert_close(scores / scores.norm(), expected / expected.norm(), rtol=1e-3, atol=1e-5)


def test_the_best_epoch_is_kept_even_where_training_spoils_it(recorded: Recorded) -> None:
    start = recorded.train(epochs=0, initial=centroids(recorded.up, 8))
    spoiled = recorded.train(epochs=2, learning_rate=30.0, initial=centroids(recorded.up, 8))
    assert spoiled.epoch == 0 and torch.equal(spoiled.first, start.first) and spoiled.captured == start.captured


def test_training_says_how_far_it_is(recorded: Recorded) -> None:
    said: list[tuple[int, int, float, float]] = []
    with torch.no_grad():
        train_router(recorded.x, recorded.norms, RouterTraining(epochs=3), progress=lambda *args: said.append(args))
    assert [each[:2] for each in said] == [(1, 3), (2, 3), (3, 3)] and said[2][2] < said[0][2]


def test_a_router_needs_tokens_to_learn_from_and_others_to_be_judged_by() -> None:
    with pytest.raises(ValueError, match="there are 1"):
        train_router(torch.ones(1, 4), torch.ones(1, 2), RouterTraining())


def test_captured_mass_is_one_for_all_and_greatest_for_the_truth() -> None:
    norms, scores = randn(50, 8).abs(), randn(50, 8, seed=1)
    assert captured_mass(scores, norms, 1.0) == pytest.approx(1)
    truth = captured_mass(norms, norms, 0.25)
    assert 0.25 < truth < 1 and captured_mass(scores, norms, 0.25) < truth
    assert captured_mass(-norms, norms, 0.25) < 0.25


def test_the_perfect_router_loses_least_of_all_selections() -> None:
    norms = randn(60, 10).abs()
    perfect = above(norms, histogram(norms).threshold_for_share(0.3))
    count = int(perfect.sum())
    static = top_tiles(norms.mean(0, keepdim=True), 0.3).expand(60, 10)
    for other in (top_tiles(norms, 0.3), random_tiles(60, 10, 0.3, 0), static):
        assert abs(int(other.sum()) - count) <= 3 and norms[other].sum() < norms[perfect].sum()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_every_token_uses_its_highest_tiles(share: float) -> None:
    scores = randn(20, 10)
    mask = top_tiles(scores, share)
    assert mask.sum(1).tolist() == [round(share * 10)] * 20
    lowest, highest = scores.masked_fill(~mask, 99).amin(1), scores.masked_fill(mask, -99).amax(1)
    assert bool((lowest > highest).all())


def test_equal_scores_go_to_the_lower_tile() -> None:
    assert top_tiles(torch.ones(1, 5), 0.4).tolist() == [[True, True, False, False, False]]


def test_random_tiles_are_those_of_the_token_not_of_its_batch() -> None:
    whole = random_tiles(40, 12, 0.25, seed=7)
    assert torch.equal(random_tiles(5, 12, 0.25, seed=7, first_token=30), whole[30:35])
    assert not torch.equal(random_tiles(40, 12, 0.25, seed=8), whole)
    assert whole.sum(1).tolist() == [3] * 40
    for seed in range(8, 32):  # another seed is no later part of the same chance
        assert not torch.equal(random_tiles(39, 12, 0.25, seed), whole[1:])


def test_random_tiles_are_used_equally_and_independently() -> None:
    """8,000 tokens, 8 tiles, half of each: every tile and every pair within five standard deviations of its due."""
    mask = random_tiles(8000, 8, 0.5, seed=0).double()
    together = mask.T @ mask / 8000
    expected = torch.full((8, 8), 0.5 * 3 / 7, dtype=torch.float64).fill_diagonal_(0.5)
    assert float((together - expected).abs().max()) < 5 * 0.5 / 8000**0.5
    following = (mask[1:] * mask[:-1]).mean(0)
    assert float((following - 0.25).abs().max()) < 5 * 0.44 / 8000**0.5


def test_a_tile_mask_covers_its_neurons_and_the_short_tile() -> None:
    assert neuron_mask(torch.tensor([[True, False, True]]), 2, 5).tolist() == [[True, True, False, False, True]]
