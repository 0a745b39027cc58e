"""Experts grouped by what neurons do on text: planted groups are found, and the model stays what it was."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import llama, opt
from torch import Tensor

from moesaic.bench.retention.nested import NestedSplit, nested_split
from moesaic.bench.retention.random_split import random_split
from moesaic.compress.calibration import Calibration, CalibrationSettings
from moesaic.compress.material import Material, Workshop
from moesaic.compress.moefy.calibrate import with_sparse_ffns_
from moesaic.compress.moefy.cluster import Split, balanced_kmeans
from moesaic.compress.moefy.coactivation import CoActivation, coactivation_split, neighbour_graph
from moesaic.compress.moefy.norms import tile_norms
from moesaic.compress.moefy.partition import cut_share, partition
from moesaic.compress.moefy.patterns import pattern_split
from moesaic.compress.moefy.router import captured_mass
from moesaic.compress.moefy.settings import MoefySettings
from moesaic.compress.moefy.stage import MoefyStage
from moesaic.compress.pipeline import compress
from moesaic.compress.recipe import read_recipe
from moesaic.models.checkpoint import Checkpoint, load, open_checkpoint
from moesaic.models.errors import RecipeError
from moesaic.models.ffn.routed import NormRouter, RoutedFFN
from moesaic.models.transformer import Layer, Transformer

Splitter = Callable[[CoActivation, int], Split]


def by_patterns(found: CoActivation, size: int) -> Split:
    return pattern_split(found, size).split


SPLITS: list[Splitter] = [coactivation_split, by_patterns]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Planted:
    """600 tokens, each of which fires 2 of 8 groups of 12 shuffled neurons, over a little noise."""

    def __init__(self, groups: int = 8, size: int = 12) -> None:
        wanted = randn(600, groups).argsort(dim=1) < 2
        on = wanted.repeat_interleave(size, dim=1)
        shuffled = torch.randperm(groups * size, generator=torch.Generator().manual_seed(1))
        self.h = (torch.where(on, 1 + randn(*on.shape, seed=2).abs(), 0.3 * randn(*on.shape, seed=3)))[:, shuffled]
        self.group = (torch.arange(groups * size) // size)[shuffled]

    def found(self, active: int = 24) -> CoActivation:
        return counted(self.h, active)


def counted(h: Tensor, active: int | None = None) -> CoActivation:
    found = CoActivation.empty(h.shape[1], active)
    found.add(h)
    return found


def groups_of(split: Split, group: Tensor) -> list[list[int]]:
    """The planted groups that each expert holds."""
    return sorted(sorted(set(group[expert].tolist())) for expert in torch.split(split.order, split.size))


# --- counting ------------------------------------------------------------------------------------------------------


def test_counts_are_of_the_tokens_for_which_both_are_among_the_strongest() -> None:
    h = torch.tensor([[-3.0, 2.0, 1.0, 0.5], [0.0, 0.0, -1.0, 0.0], [1.0, 2.0, 0.0, -3.0]])
    found = counted(h, 2)
    assert found.counts.tolist() == [[1, 1, 0, 0], [1, 2, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]]
    assert found.rates.tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1 / 3])


def test_counts_do_not_depend_on_the_cuts() -> None:
    h, parts = Planted().h, CoActivation.empty(96, 24)
    for part in (h[:7], h[7:7], h[7:400], h[400:]):
        parts.add(part)
    assert torch.equal(parts.counts, counted(h, 24).counts) and parts.tokens == 600


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or inf"):
        counted(torch.tensor([[1.0, bad]]), 1)


def test_activations_of_another_width_and_marks_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 5\] is not \[tokens, 4\]"):
        CoActivation.empty(4).add(randn(3, 5))
    with pytest.raises(ValueError, match="at least 1"):
        CoActivation.empty(4, 0)


def test_the_graph_is_symmetric_and_a_neuron_that_always_fires_is_not_everyones_only_neighbour() -> None:
    planted = Planted()
    planted.h[:, 5] = 9.0
    graph = neighbour_graph(planted.found().counts, 4)
    assert torch.equal(graph, graph.T) and not graph.diagonal().any()
    within = planted.group[:, None] == planted.group
    others = torch.arange(96) != 5
    assert bool(((graph > 0) & within)[others][:, others].any(dim=1).all())


# --- splits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("neurons", "size"), [(96, 8), (100, 8), (97, 32), (5, 8), (8, 8), (20, 1), (9, 5), (1, 4)])
def test_a_split_is_a_permutation_into_experts_of_one_size(split: Splitter, neurons: int, size: int) -> None:
    found = split(counted(randn(50, neurons), max(1, neurons // 4)), size)
    assert sorted(found.order.tolist()) == list(range(neurons))
    counts = torch.bincount(found.labels).tolist()
    assert counts == [size] * (neurons // size) + ([neurons % size] if neurons % size else [])
    for expert in torch.split(found.order, size):
        assert bool((expert.diff() > 0).all())


@pytest.mark.parametrize("split", SPLITS)
def test_neurons_that_fire_together_are_found(split: Splitter) -> None:
    planted = Planted()
    assert groups_of(split(planted.found(), 12), planted.group) == [[group] for group in range(8)]


@pytest.mark.parametrize("split", SPLITS)
def test_small_experts_hold_one_group_each_and_large_ones_whole_groups(split: Splitter) -> None:
    planted = Planted()
    assert all(len(groups) == 1 for groups in groups_of(split(planted.found(), 4), planted.group))
    assert len(groups_of(coactivation_split(planted.found(), 24), planted.group)) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_a_perfect_router_captures_more_of_such_experts_than_of_chance(split: Splitter) -> None:
    planted, down = Planted(), randn(16, 96, seed=4)
    test, found = planted.h[400:], split(counted(planted.h[:400], 24), 8)

    def captured(order: Tensor) -> float:
        norms = tile_norms(test[:, order], down[:, order], 8)
        return captured_mass(norms, norms, 0.3)

    assert captured(found.order) > captured(random_split(randn(96, 4), 8).order) + 0.2


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_is_the_same_every_time(split: Splitter) -> None:
    found = counted(randn(80, 64), 16)
    assert torch.equal(split(found, 8).order, split(found, 8).order)


def test_the_seed_moves_the_partition_where_nothing_is_planted() -> None:
    found = counted(randn(80, 64), 16)
    assert not torch.equal(coactivation_split(found, 8, 1).order, coactivation_split(found, 8, 2).order)


@pytest.mark.parametrize("split", SPLITS)
def test_neurons_that_never_fire_share_experts_and_make_no_nan(split: Splitter) -> None:
    planted = Planted()
    planted.h[:, planted.group < 2] = 0
    found = split(planted.found(), 12)
    assert np.isfinite(found.inertia)
    dead = (planted.group < 2)[found.order].view(8, 12)
    assert sorted(dead.sum(1).tolist()) == [0] * 6 + [12] * 2


@pytest.mark.parametrize("split", SPLITS)
def test_a_layer_that_never_fires_at_all_is_still_split(split: Splitter) -> None:
    found = split(counted(torch.zeros(20, 30), 4), 8)
    assert sorted(found.order.tolist()) == list(range(30)) and found.inertia == 0


@pytest.mark.parametrize("split", SPLITS)
def test_a_neuron_that_fires_everywhere_does_not_hide_the_groups(split: Splitter) -> None:
    planted = Planted()
    planted.h[:, 5] = 9.0
    held = groups_of(split(planted.found(25), 12), torch.where(torch.arange(96) == 5, -1, planted.group))
    assert sum(len([group for group in groups if group >= 0]) == 1 for groups in held) >= 6


@pytest.mark.parametrize("split", SPLITS)
def test_experts_of_no_neuron_are_refused(split: Splitter) -> None:
    with pytest.raises(ValueError, match="lower one of them|at least 1"):
        split(counted(randn(5, 4), 1), 0)


# --- the partition -------------------------------------------------------------------------------------------------


def weighted(nodes: int, seed: int = 0) -> Any:
    """A symmetric matrix with a third of the edges."""
    weights = randn(nodes, nodes, seed=seed).abs()
    weights = torch.where(weights > 1, weights, 0).triu(1)
    return (weights + weights.T).numpy()


def test_the_cut_is_the_part_of_the_weight_between_parts() -> None:
    weights = weighted(10)
    labels = np.array([0] * 4 + [1] * 6)
    between = sum(weights[i, j] for i in range(10) for j in range(10) if labels[i] != labels[j])
    assert cut_share(weights, labels) == pytest.approx(between / weights.sum())
    assert cut_share(weights * 0, labels) == 0


@pytest.mark.parametrize("seed", range(3))
def test_no_exchange_of_two_nodes_lowers_the_cut_of_a_bisection(seed: int) -> None:
    weights = weighted(24, seed)
    labels = partition(weights, 12, seed)
    cut = cut_share(weights, labels)
    for i in np.flatnonzero(labels == 0):
        for j in np.flatnonzero(labels == 1):
            other = labels.copy()
            other[[i, j]] = 1, 0
            assert cut_share(weights, other) > cut - 1e-6


def test_a_bisection_of_few_nodes_is_the_best_there_is() -> None:
    from itertools import combinations

    weights = weighted(10, 5)
    best = min(cut_share(weights, np.isin(np.arange(10), side).astype(np.int64)) for side in combinations(range(10), 5))
    assert cut_share(weights, partition(weights, 5)) <= best * 1.05


def test_a_chain_is_cut_into_its_pieces() -> None:
    weights = np.zeros((60, 60), dtype=np.float32)
    for i in range(59):
        weights[i, i + 1] = weights[i + 1, i] = 0.01 if i % 15 == 14 else 1
    assert cut_share(weights, partition(weights, 15)) == pytest.approx(3 * 0.01 / weights.sum() * 2, rel=1e-3)


# --- patterns ------------------------------------------------------------------------------------------------------


def test_the_inertia_is_that_of_the_columns_of_marks() -> None:
    h = randn(60, 24)
    marks = torch.zeros(60, 24).scatter_(1, h.abs().topk(6, dim=1).indices, 1.0)
    found = pattern_split(counted(h, 6), 5)
    parts = torch.split(marks.T[found.split.order], 5)
    expected = sum(float((part - part.mean(0)).square().sum()) for part in parts) / 60
    assert found.split.inertia == pytest.approx(expected, rel=1e-4)


def test_shared_neurons_are_those_with_the_highest_rates() -> None:
    planted = Planted()
    planted.h[:, [3, 17, 40, 66]] += 8.0
    found = pattern_split(planted.found(28), 4, num_shared=1)
    assert found.split.order[:4].sort().values.tolist() == [3, 17, 40, 66]
    assert found.shared.tolist() == [True] + [False] * 23
    assert sorted(found.split.order.tolist()) == list(range(96))


def test_a_representative_belongs_to_its_expert_and_is_its_most_typical_neuron() -> None:
    planted = Planted()
    rare = [int((planted.group == group).nonzero()[0]) for group in range(8)]
    planted.h[torch.arange(600) % 2 == 0, torch.tensor(rare)[:, None]] = 0  # half the time, one of each group is off
    found = pattern_split(planted.found(), 12)
    assert torch.equal(found.split.labels[found.representatives], torch.arange(8))
    assert not set(rare) & set(found.representatives.tolist())


@pytest.mark.parametrize("num_shared", [-1, 3])
def test_shared_experts_must_leave_some_to_route(num_shared: int) -> None:
    with pytest.raises(ValueError, match="do not leave a neuron of 24"):
        pattern_split(counted(randn(20, 24), 4), 8, num_shared)


# --- nested --------------------------------------------------------------------------------------------------------


def nested(planted: Planted, sizes: list[int]) -> NestedSplit:
    found = planted.found()
    return nested_split(96, sizes, lambda neurons, size: by_patterns(found.of(neurons), size))


def test_every_large_expert_is_made_of_small_ones() -> None:
    found = nested(Planted(), [48, 12, 4])
    for large, small in ((48, 12), (12, 4)):
        outer, inner = found.at(large), found.at(small)
        for expert in torch.split(inner.order, small):
            assert len(set(outer.labels[expert].tolist())) == 1
    assert found.inertias[0] > found.inertias[1] > found.inertias[2]


def test_the_groups_are_found_inside_larger_experts_too() -> None:
    planted = Planted()
    assert groups_of(nested(planted, [24, 12]).at(12), planted.group) == [[group] for group in range(8)]


def test_only_the_last_expert_of_each_size_is_short_and_the_smallest_ascend() -> None:
    rows = randn(75, 6)
    found = nested_split(75, [32, 16, 8], lambda neurons, size: balanced_kmeans(rows[neurons], size))
    assert sorted(found.order.tolist()) == list(range(75)) and found.at(16).num_experts == 5
    assert all(bool((expert.diff() > 0).all()) for expert in torch.split(found.order, 8))


@pytest.mark.parametrize("sizes", [[], [32, 12], [16, 32], [8, 8]])
def test_sizes_that_do_not_nest_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="each must divide the one before it"):
        nested_split(64, sizes, lambda neurons, size: random_split(randn(len(neurons), 2), size))


def test_a_size_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no experts of 5 here"):
        nested(Planted(), [24, 12]).at(5)


# --- in a recipe ---------------------------------------------------------------------------------------------------


def moefied(source: Checkpoint, folder: Path, seed: int = 0, **settings: Any) -> Material:
    """What the stage makes of a model, with a few windows of a small text."""
    (folder / "text.txt").write_text("Once upon a time there was a fox. The fox was quick, and the dog was not. " * 20)
    calibration = Calibration(
        CalibrationSettings(text=[str(folder / "text.txt")], sequences=6, length=48, seed=seed), source
    )
    stage = MoefyStage(MoefySettings(**({"expert_size": 24} | settings)))
    return stage.run(source, Workshop(source, calibration, seed, folder, lambda *_: None, torch.device("cpu")))


def with_every_expert(model: Transformer, material: Material) -> Transformer:
    """The split model at a tier whose threshold is below every score."""
    model.load_state_dict(dict(material.tensors()))
    with_sparse_ffns_(model, replace(material.spec, num_tiers=2))
    for layer in model.layers:
        assert isinstance(layer, Layer) and isinstance(layer.ffn, RoutedFFN)
        layer.ffn.router = NormRouter.of(torch.ones(8, 48), torch.ones(layer.ffn.num_tiles, 8))
        layer.ffn.thresholds.fill_(-1.0)
    return model


@pytest.mark.parametrize("family", [llama, opt])
@pytest.mark.parametrize("split", ["weight_kmeans", "coactivation", "patterns"])
def test_all_experts_of_every_split_are_the_dense_model(tmp_path: Path, family: Any, split: str) -> None:
    family(tmp_path / "model")
    source = open_checkpoint(tmp_path / "model")
    ids = torch.randint(3, 250, (2, 40), generator=torch.Generator().manual_seed(1))
    expected, before = load(source.path)(ids), load(source.path).state_dict()["layers.0.ffn.up.weight"]
    model = with_every_expert(load(source.path), moefied(source, tmp_path, split=split, router_width=8))
    for found in (model(ids), model(ids, compute=model.compute_of([1, 1]))):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    after = model.state_dict()["layers.0.ffn.up.weight"]
    assert not torch.equal(before, after) and torch.equal(before.sum(1).sort().values, after.sum(1).sort().values)


def test_a_recipe_with_experts_by_chance_is_told_where_they_are_now() -> None:
    with pytest.raises(RecipeError, match="are a control: --controls random-experts; choose weight_kmeans, coact"):
        read_recipe({"stages": [{"moefy": {"split": "random"}}]})


@pytest.mark.parametrize("split", ["coactivation", "patterns"])
def test_such_a_split_looks_at_the_text_and_the_others_do_not(tmp_path: Path, split: str) -> None:
    llama(tmp_path / "model")
    source = open_checkpoint(tmp_path / "model")
    orders = [
        torch.cat([value.flatten() for name, value in moefied(source, tmp_path, **settings).tensors() if "up" in name])
        for settings in ({"split": split}, {"split": split}, {"split": split, "split_active": 30})
    ]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    calibration = Calibration(CalibrationSettings(text=[str(tmp_path / "text.txt")], length=48), source)
    passes = [
        MoefyStage(MoefySettings.model_validate({"split": name, "expert_size": size})).passes(source.spec, calibration)
        for name, size in ((split, 24), (split, 1), ("weight_kmeans", 24))
    ]
    assert passes == [calibration.windows.numel(), 0, 0]


@pytest.mark.parametrize(("split", "figure"), [("coactivation", "cut"), ("patterns", "inertia")])
def test_the_record_says_how_well_it_split_and_what_is_left_over(tmp_path: Path, split: str, figure: str) -> None:
    llama(tmp_path / "model", num_hidden_layers=2)
    notes = moefied(open_checkpoint(tmp_path / "model"), tmp_path, split=split).notes
    assert notes["experts"] == [4, 4] and notes["in_last_expert"] == [16, 16]
    assert len(notes[figure]) == 2 and all(value > 0 for value in notes[figure])


def test_a_recipe_groups_by_text_and_calibrates_after_it(tmp_path: Path) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    (tmp_path / "text.txt").write_text("Once upon a time there was a fox. " * 40)
    text = {"text": [str(tmp_path / "text.txt")]}
    moefy = {"split": "coactivation", "expert_size": 24, "router_width": 8, "tiers": {"low": 0.6}}
    compress(tmp_path / "model", tmp_path / "out", {
        "calibration": {**text, "sequences": 4, "length": 48}, "evaluation": {**text, "truncate": 24},
        "stages": [{"moefy": moefy}],
    })  # fmt: skip
    record = open_checkpoint(tmp_path / "out").record
    assert record.stages[0].settings["split"] == "coactivation" and record.tiers[0].name == "low"


def test_an_ffn_of_one_neuron_is_one_expert(tmp_path: Path) -> None:
    opt(tmp_path / "model", ffn_dim=1)
    source = open_checkpoint(tmp_path / "model")
    for split in ("coactivation", "patterns"):
        assert moefied(source, tmp_path, split=split, expert_size=1).notes["experts"] == [1, 1, 1]
        with pytest.raises(RecipeError, match="the widest FFN has 1 neurons; lower it"):
            moefied(source, tmp_path, split=split, expert_size=2)
