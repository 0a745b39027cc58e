"""Encoders compute what the original implementation computes, and no feature of theirs can be wrong unseen."""

from pathlib import Path

import pytest
import torch
from encoder_cases import ENCODER_CASES, ENCODER_PLANTS
from family_cases import Case
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.context import WholeContext
from moesaic.models.errors import CheckpointError
from moesaic.models.relative import distance_buckets

IDS = torch.randint(3, 256, (3, 40), generator=torch.Generator().manual_seed(1))  # below 3 stand ids of padding
LENGTHS = torch.tensor([40, 13, 1])
BY_FEATURE = [(case, feature) for case in ENCODER_CASES for feature in case.features]
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> object:
    with torch.no_grad():
        yield


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest state."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("case", ENCODER_CASES, ids=str)
def test_states_are_those_of_transformers_and_padding_is_not_seen(case: Case, tmp_path: Path) -> None:
    theirs = case.build(tmp_path)
    ours = load(tmp_path)
    assert error(ours(IDS), theirs(IDS).last_hidden_state) <= 1e-5
    together = ours.hidden(IDS, context=ours.context_of(IDS, LENGTHS))
    for row, ids, length in zip(together, IDS, LENGTHS.tolist(), strict=True):
        alone = theirs(ids[None, :length]).last_hidden_state[0]
        assert error(row[:length], alone) <= 1e-5 and error(ours(ids[None, :length])[0], alone) <= 1e-5


@pytest.mark.parametrize(("case", "feature"), BY_FEATURE, ids=str)
def test_a_feature_that_is_wrong_is_seen(case: Case, feature: str, tmp_path: Path) -> None:
    expected = case.build(tmp_path)(IDS).last_hidden_state
    assert error(ENCODER_PLANTS[feature](open_checkpoint(tmp_path)).hidden(IDS), expected) > 1e-4


def test_every_feature_has_a_planted_bug() -> None:
    assert {feature for _, feature in BY_FEATURE} == ENCODER_PLANTS.keys()


@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_padding_that_is_seen_changes_a_text(family: str, tmp_path: Path) -> None:
    Case(family).build(tmp_path)
    model = load(tmp_path)
    right, wrong = (model.hidden(IDS, context=model.context_of(IDS, lengths)) for lengths in (LENGTHS, None))
    assert error(wrong[1, :13], right[1, :13]) > 1e-3


def test_distances_have_the_buckets_of_transformers() -> None:
    places = torch.arange(300)
    expected = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None], num_buckets=32)
    assert torch.equal(distance_buckets(300, 32), expected)


def test_a_context_mixes_a_row_that_is_all_there_as_it_is() -> None:
    query = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    whole, counted = WholeContext(5), WholeContext(5, torch.tensor([5]))
    assert torch.allclose(whole.attend(0, query, query, query), counted.attend(0, query, query, query), atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_heads_pooler_and_position_ids_of_older_files_are_left_aside(prefix: str, tmp_path: Path) -> None:
    expected = Case("bert").build(tmp_path)(IDS).last_hidden_state
    weights = load_file(tmp_path / "model.safetensors")
    more = {"embeddings.position_ids": torch.arange(64)[None]}
    there = {f"{prefix}{name}": each for name, each in (weights | more).items()}
    if prefix:
        there |= {"cls.predictions.bias": torch.zeros(259), "cls.seq_relationship.bias": torch.zeros(2)}
    save_file(there, tmp_path / "model.safetensors")
    assert error(load(tmp_path)(IDS), expected) <= 1e-5


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    Case("bert").build(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][0, 0] = torch.nan
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="encoder.layer.1.output.dense.weight holds NaN or infinity"):
        load(tmp_path)
