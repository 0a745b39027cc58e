"""Published routers behind one protocol, and the rules that turn scores into experts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama, opt
from torch import Tensor
from torch.nn import functional

from moesaic.bench.retention.masks import random_tiles
from moesaic.bench.retention.mass_router import MassRouter
from moesaic.bench.retention.mlp_router import MLPRouter, MLPTraining
from moesaic.bench.retention.rivals import (
    ExpertRouter,
    GateRouter,
    NormRegressionRouter,
    RandomRouter,
    RepresentativeRouter,
    SimilarityRouter,
    StaticRouter,
    expert_lengths,
    expert_sums,
)
from moesaic.bench.retention.selection import (
    AbsoluteThreshold,
    AlwaysOn,
    CapturedMass,
    FixedTopK,
    RelativeThreshold,
    Selection,
)
from moesaic.bench.retention.weights import FFNWeights
from moesaic.compress.moefy.coactivation import CoActivation
from moesaic.compress.moefy.norms import tile_norms
from moesaic.compress.moefy.patterns import pattern_split
from moesaic.compress.moefy.router import RouterTraining, captured_mass, centroids
from moesaic.models.checkpoint import load
from moesaic.models.transformer import Layer


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorded:
    """An FFN of 9 experts of 8 similar neurons and a short one, in expert order, and 800 tokens given to it."""

    def __init__(self, gated: bool) -> None:
        rows = functional.normalize(randn(10, 16), dim=1).repeat_interleave(8, dim=0)[:76]
        rows = 2 * (rows + 0.1 * randn(76, 16, seed=1))
        up = rows + 0.5 * randn(76, 16, seed=5) if gated else rows
        self.weights = FFNWeights(up, randn(12, 76, seed=2), "silu" if gated else "relu", rows if gated else None)
        self.x = 2 * randn(800, 16, seed=3)
        self.h = self.weights.hidden(self.x)
        self.norms = tile_norms(self.h, self.weights.down, 8)
        self.train, self.test = self.x[:600], self.x[600:]

    def made(self, kind: str) -> ExpertRouter:
        norms = self.norms[:600]
        makers: dict[str, Callable[[], ExpertRouter]] = {
            "similarity": lambda: SimilarityRouter.fit(self.weights, 8),
            "representative": lambda: RepresentativeRouter.fit(self.weights, torch.arange(0, 76, 8)),
            "gate": lambda: GateRouter.fit(self.weights, 8),
            "scaled_gate": lambda: GateRouter.fit(self.weights, 8, self.train),
            "mass": lambda: MassRouter.fit(self.weights, 8, self.train, 20),
            "whitened_mass": lambda: MassRouter.fit(self.weights, 8, self.train, 20, whitened=True),
            "mlp": lambda: MLPRouter.fit(
                self.train, expert_sums(self.h[:600], 8), centroids(self.weights.rows, 8), MLPTraining(8, 64)
            ),
            "norm_regression": lambda: NormRegressionRouter.fit(
                self.train, norms, RouterTraining(16, 8, 64, 1e-2), centroids(self.weights.rows, 8)
            ),
            "random": lambda: RandomRouter(10),
            "static": lambda: StaticRouter.fit(norms),
        }
        return makers[kind]()

    def captured(self, router: ExpertRouter) -> float:
        return captured_mass(router.scores(self.test), self.norms[600:], 0.3)


KINDS = ("similarity", "representative", "mass", "whitened_mass", "mlp", "norm_regression", "random", "static")
FORMS = [(gated, kind) for gated in (True, False) for kind in KINDS]
FORMS += [(True, "gate"), (True, "scaled_gate")]


@pytest.fixture(scope="module")
def layers() -> dict[bool, Recorded]:
    return {gated: Recorded(gated) for gated in (True, False)}


# --- every router --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gated", "kind"), FORMS)
def test_scores_are_at_least_zero_and_do_not_depend_on_the_batch(
    layers: dict[bool, Recorded], gated: bool, kind: str
) -> None:
    router, x = layers[gated].made(kind), layers[gated].test
    scores = router.scores(x)
    assert scores.shape == (200, 10) and scores.dtype == torch.float32
    assert bool(torch.isfinite(scores).all()) and scores.min() >= 0
    torch.testing.assert_close(torch.cat([router.scores(x[:1]), router.scores(x[1:])]), scores, rtol=1e-5, atol=1e-6)
    assert bool(torch.isfinite(router.scores(torch.zeros(2, 16))).all())


@pytest.mark.parametrize(("gated", "kind"), FORMS)
def test_every_router_beats_chance_on_experts_of_similar_neurons(
    layers: dict[bool, Recorded], gated: bool, kind: str
) -> None:
    layer = layers[gated]
    captured, chance = layer.captured(layer.made(kind)), layer.captured(RandomRouter(10, seed=9))
    margin = 0.03 if kind == "static" else 0.1
    assert captured > chance + margin or kind == "random"
    assert captured <= captured_mass(layer.norms[600:], layer.norms[600:], 0.3) + 1e-6


@pytest.mark.parametrize(("gated", "kind"), FORMS)
def test_a_fit_is_the_same_every_time(layers: dict[bool, Recorded], gated: bool, kind: str) -> None:
    one, same = (layers[gated].made(kind).scores(layers[gated].test) for _ in range(2))
    assert torch.equal(one, same)


@pytest.mark.parametrize(
    ("kind", "num_bytes"),
    [
        ("similarity", 2 * 10 * 16), ("representative", 2 * 2 * 10 * 16), ("gate", 2 * 76 * 16),
        ("mass", 2 * 2 * 10 * 2 * 16), ("mlp", 2 * (10 * 16 + 10 * 10)), ("norm_regression", 2 * (16 * 16 + 10 * 16)),
        ("random", 0), ("static", 0),
    ],
)  # fmt: skip
def test_bytes_are_those_of_what_routing_reads(layers: dict[bool, Recorded], kind: str, num_bytes: int) -> None:
    assert layers[True].made(kind).num_bytes == num_bytes


# --- one by one ----------------------------------------------------------------------------------------------------


def test_similarity_ranks_by_distance_from_the_centroid(layers: dict[bool, Recorded]) -> None:
    layer = layers[True]
    router = SimilarityRouter.fit(layer.weights, 8)
    unit = functional.normalize(layer.test, dim=1)
    expected = torch.stack([(unit - centroid).norm(dim=1) for centroid in centroids(layer.weights.rows, 8)], dim=1)
    torch.testing.assert_close(router.scores(layer.test), 2 - expected, rtol=1e-4, atol=1e-5)


def test_a_representative_scores_what_it_gives(layers: dict[bool, Recorded]) -> None:
    chosen = torch.arange(3, 76, 8)
    for layer in layers.values():
        router = RepresentativeRouter.fit(layer.weights, chosen)
        torch.testing.assert_close(router.scores(layer.x), layer.h[:, chosen].abs())


def test_representatives_of_a_split_are_found_in_weights_as_they_were(layers: dict[bool, Recorded]) -> None:
    layer = layers[True]
    shuffled = torch.randperm(76, generator=torch.Generator().manual_seed(4))
    weights = layer.weights.select(shuffled)
    found = CoActivation.empty(76, 10)
    found.add(weights.hidden(layer.train))
    split = pattern_split(found, 8)
    router = RepresentativeRouter.fit(weights, split.representatives)
    norms = tile_norms(weights.hidden(layer.test)[:, split.split.order], weights.down[:, split.split.order], 8)
    captured = captured_mass(router.scores(layer.test), norms, 0.3)
    assert captured > captured_mass(RandomRouter(10).scores(layer.test), norms, 0.3) + 0.1


def test_normalised_representatives_have_rows_of_length_one(layers: dict[bool, Recorded]) -> None:
    for layer in layers.values():
        neurons = RepresentativeRouter.fit(layer.weights, torch.arange(10), normalised=True).neurons
        torch.testing.assert_close(neurons.rows.norm(dim=1), torch.ones(10))


def test_the_scaled_gate_of_one_neuron_is_its_activation_times_what_up_and_down_usually_add(
    layers: dict[bool, Recorded],
) -> None:
    layer = layers[True]
    assert layer.weights.gate is not None
    router = GateRouter.fit(layer.weights, 1, layer.train)
    usual = (layer.train @ layer.weights.up.T).square().mean(0).sqrt() * layer.weights.down.norm(dim=0)
    expected = functional.silu(layer.test @ layer.weights.gate.T).abs() * usual
    torch.testing.assert_close(router.scores(layer.test), expected, rtol=1e-4, atol=1e-5)


def test_an_ffn_without_a_gate_has_no_gate_to_route_by(layers: dict[bool, Recorded]) -> None:
    with pytest.raises(ValueError, match="this FFN has none: choose another router"):
        GateRouter.fit(layers[False].weights, 8)


def test_the_mass_of_full_rank_is_the_product_of_the_true_lengths(layers: dict[bool, Recorded]) -> None:
    layer = layers[True]
    assert layer.weights.gate is not None
    router = MassRouter.fit(layer.weights, 8, layer.train, 80)
    given = layer.train @ layer.weights.gate.T
    slopes = given.sigmoid().square().mean(0).sqrt()
    gates = expert_lengths(layer.test @ layer.weights.gate.T * slopes, 8)
    ups = expert_lengths(layer.test @ layer.weights.up.T * layer.weights.down.norm(dim=0), 8)
    torch.testing.assert_close(router.scores(layer.test), gates * ups, rtol=1e-3, atol=1e-3)


def test_whitened_factors_keep_most_of_x_as_it_is_spread(layers: dict[bool, Recorded]) -> None:
    layer = layers[False]
    x = layer.x * torch.logspace(0, -2, 16)  # a few directions hold nearly all of it
    plain, whitened = (MassRouter.fit(layer.weights, 8, x, 10, whitened=flag) for flag in (False, True))
    assert (whitened.scores(x).square().mean(0) >= plain.scores(x).square().mean(0) * (1 - 1e-4)).all()
    assert whitened.scores(x).square().mean() > 1.01 * plain.scores(x).square().mean()


def test_experts_of_fewer_neurons_than_the_rank_are_whole(layers: dict[bool, Recorded]) -> None:
    layer = layers[False]
    router = MassRouter.fit(layer.weights, 2, layer.train, 1000)
    assert router.second.shape == (38, 2, 16) and router.first is None


def test_the_mlp_begins_as_the_centroids_and_learns_more(layers: dict[bool, Recorded]) -> None:
    layer = layers[True]
    rows, mass = centroids(layer.weights.rows, 8), expert_sums(layer.h, 8)
    start, found = (MLPRouter.fit(layer.x, mass, rows, MLPTraining(epochs, 64)) for epochs in (0, 10))
    assert torch.equal(start.first, rows) and torch.equal(start.second, torch.eye(10)) and start.epoch == 0
    assert found.captured > start.captured and found.epoch > 0


def test_the_best_epoch_of_the_mlp_is_kept_even_where_training_spoils_it(layers: dict[bool, Recorded]) -> None:
    layer = layers[True]
    rows, mass = centroids(layer.weights.rows, 8), expert_sums(layer.h, 8)
    spoiled = MLPRouter.fit(layer.x, mass, rows, MLPTraining(2, 64, learning_rate=100.0))
    assert spoiled.epoch == 0 and torch.equal(spoiled.first, rows)


def test_an_mlp_of_activations_that_are_all_zero_stays_a_number(layers: dict[bool, Recorded]) -> None:
    layer = layers[False]
    found = MLPRouter.fit(layer.x, torch.zeros(800, 10), centroids(layer.weights.rows, 8), MLPTraining(2))
    assert bool(torch.isfinite(found.scores(layer.x)).all()) and found.captured == 0


def test_routers_are_trained_inside_inference_mode_too(layers: dict[bool, Recorded]) -> None:
    layer = layers[True]
    with torch.inference_mode():
        x, mass = layer.x + 0, expert_sums(layer.h, 8)
        found = MLPRouter.fit(x, mass, centroids(layer.weights.rows, 8), MLPTraining(2, 64))
    assert found.captured > 0


def test_an_mlp_needs_tokens_to_learn_from_and_others_to_be_judged_by() -> None:
    with pytest.raises(ValueError, match="there are 1"):
        MLPRouter.fit(torch.ones(1, 4), torch.ones(1, 2), torch.ones(2, 4))


def test_random_scores_are_those_of_the_token_and_used_equally() -> None:
    x = randn(4000, 16)
    scores = RandomRouter(8, seed=1).scores(x)
    assert torch.equal(RandomRouter(8, seed=1).scores(x[30:40]), scores[30:40])
    assert not torch.equal(RandomRouter(8, seed=2).scores(x), scores) and len(set(scores.flatten().tolist())) > 31000
    chosen = FixedTopK(0.25).mask(scores).float().mean(0)
    assert float((chosen - 0.25).abs().max()) < 5 * 0.44 / 4000**0.5 and scores.max() < 1


def test_random_tiles_did_not_change_when_their_chance_was_shared() -> None:
    mask = random_tiles(3, 10, 0.3, seed=7)
    assert [row.nonzero().flatten().tolist() for row in mask] == [[5, 7, 8], [1, 2, 5], [2, 6, 7]]


def test_weights_of_a_loaded_layer_give_what_the_layer_gives(tmp_path: Path) -> None:
    for family in (llama, opt):
        family(tmp_path / family.__name__)
        layer = load(tmp_path / family.__name__).layers[1]
        assert isinstance(layer, Layer)
        weights, x = FFNWeights.of(layer.ffn), randn(5, 48)
        torch.testing.assert_close(weights.hidden(x), layer.ffn.hidden(x), rtol=1e-5, atol=1e-5)
        chosen = torch.tensor([7, 3, 60])
        torch.testing.assert_close(weights.select(chosen).hidden(x), layer.ffn.hidden(x)[:, chosen])


@pytest.mark.parametrize("size", [1, 5, 8, 100])
def test_lengths_and_sums_are_of_each_expert(size: int) -> None:
    h = randn(7, 23)
    parts = torch.split(h, size, dim=1)
    torch.testing.assert_close(expert_lengths(h, size), torch.stack([part.norm(dim=1) for part in parts], dim=1))
    torch.testing.assert_close(expert_sums(h, size), torch.stack([part.abs().sum(1) for part in parts], dim=1))


# --- selections ----------------------------------------------------------------------------------------------------

RULES: list[Any] = [FixedTopK, AbsoluteThreshold, RelativeThreshold, CapturedMass]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_a_rule_keeps_the_share_it_was_fitted_to(rule: Any, share: float) -> None:
    scores = randn(500, 40).abs()
    found: Selection = rule.fit(scores, share)
    mask = found.mask(scores)
    assert mask.dtype == torch.bool and float(mask.float().mean()) == pytest.approx(share, abs=0.003)
    assert float(found.mask(randn(500, 40, seed=1).abs()).float().mean()) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_prefers_higher_scores_and_keeps_all_or_none_where_asked(rule: Any) -> None:
    scores = randn(50, 12).abs()
    mask = rule.fit(scores, 0.4).mask(scores)
    lowest, highest = scores.masked_fill(~mask, 99).amin(1), scores.masked_fill(mask, -99).amax(1)
    assert bool((lowest > highest).all())
    scores[3] = 0
    assert rule.fit(scores, 1.0).mask(scores).all() and not rule.fit(scores, 0.0).mask(scores).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_beyond_zero_and_one_are_refused(rule: Any, share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        rule.fit(torch.ones(3, 4), share)


def test_captured_mass_is_the_fewest_experts_that_hold_it() -> None:
    scores = torch.tensor([[5.0, 1.0, 3.0, 1.0], [0.0, 10.0, 0.0, 0.0], [0.0] * 4, [2.5, 2.5, 2.5, 2.5]])
    assert CapturedMass(0.6).mask(scores).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0] * 4, [1, 1, 1, 0]]
    chosen = CapturedMass(0.7).mask(randn(300, 20).abs())
    mass = randn(300, 20).abs()
    held = (mass * chosen).sum(1) / mass.sum(1)
    least = mass.masked_fill(~chosen, 99).amin(1) / mass.sum(1)
    assert bool((held >= 0.7 - 1e-6).all()) and bool((held - least < 0.7).all())


def test_a_peaked_token_uses_fewer_experts_than_a_flat_one() -> None:
    scores = torch.cat([randn(200, 20).abs() + 5, randn(200, 20).mul(3).exp()])
    for rule in (RelativeThreshold, CapturedMass):
        mask = rule.fit(scores, 0.4).mask(scores)
        assert mask[:200].float().mean() > mask[200:].float().mean() + 0.2


@pytest.mark.parametrize("rule", RULES)
def test_shared_experts_are_always_on_and_counted(rule: Any) -> None:
    scores, shared = randn(400, 40).abs(), torch.arange(40) % 8 == 0
    found = AlwaysOn.fit(rule.fit, shared, scores, 0.3)
    mask = found.mask(scores)
    assert mask[:, shared].all() and float(mask.float().mean()) == pytest.approx(0.3, abs=0.005)
    assert AlwaysOn.fit(rule.fit, shared, scores, 1.0).mask(scores).all()
    everyone = AlwaysOn.fit(rule.fit, torch.ones(40, dtype=torch.bool), scores, 1.0)
    assert everyone.mask(scores).all()


def test_shared_experts_beyond_the_share_are_refused() -> None:
    with pytest.raises(ValueError, match="2 shared experts of 4"):
        AlwaysOn.fit(FixedTopK.fit, torch.tensor([True, True, False, False]), torch.ones(3, 4), 0.4)


def test_a_rule_can_be_changed_only_by_making_another() -> None:
    rule = FixedTopK(0.5)
    with pytest.raises(AttributeError):
        rule.share = 0.1  # type: ignore[misc]
    assert replace(rule, share=0.25).mask(torch.ones(1, 4)).sum() == 1
