"""Intervals that hold what they should, seeds that repeat, and errors that are told from noise."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moesaic.evaluate.corpus import encode_corpus
from moesaic.evaluate.results import as_json
from moesaic.evaluate.score import score_together
from moesaic.evaluate.statistics import (
    Comparison,
    Floats,
    SeedSpread,
    compare_means,
    compare_perplexities,
)
from moesaic.evaluate.texts import embedded_text, read_documents
from moesaic.models.checkpoint import load
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

PEPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "valid" / "valid_docs_peps.txt"


def pairs(shift: float, count: int = 200, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    theirs = generator.normal(3, 1, count)
    return theirs + generator.normal(shift, 0.1, count), theirs


def test_nothing_differs_from_itself() -> None:
    ours, _ = pairs(0)
    found = compare_means(ours, ours)
    assert (found.difference, found.ratio, found.sign) == (0, 1, 0)
    assert (found.difference_interval.low, found.difference_interval.high) == (0, 0)


@pytest.mark.parametrize(("shift", "sign"), [(0.1, 1), (-0.1, -1)])
def test_a_small_shift_is_found_because_items_are_paired(shift: float, sign: int) -> None:
    found = compare_means(*pairs(shift))
    assert found.sign == sign and found.difference_interval.holds(found.difference)
    assert found.ratio_interval.holds(found.ratio) and (found.ratio > 1) == (sign > 0)


def test_intervals_hold_the_truth_about_95_times_in_100() -> None:
    held = [
        compare_means(*pairs(0.02, 80, seed), resamples=1000).difference_interval.holds(0.02) for seed in range(300)
    ]
    assert 0.90 <= np.mean(held) <= 0.985


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    ours, theirs = pairs(0, 1000)
    width = compare_means(ours, theirs).difference_interval
    assert width.high - width.low == pytest.approx(2 * 1.96 * np.std(ours - theirs) / math.sqrt(1000), rel=0.05)


def test_a_seed_repeats_and_another_hardly_matters() -> None:
    first, again, other = (compare_means(*pairs(0.1), seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert other.difference_interval.low == pytest.approx(first.difference_interval.low, abs=2e-3)


def test_items_weigh_as_many_tokens_as_they_have() -> None:
    found = compare_means([1.0, 30.0], [1.0, 10.0], [1, 10])
    assert [found.difference, found.ratio] == pytest.approx([20 / 11, 31 / 11])


def test_a_ratio_of_perplexities_is_the_exponential_of_the_difference_in_nats() -> None:
    found = compare_perplexities([20.0, 33.0], [10.0, 30.0], [10, 30])
    assert found.ratio == pytest.approx(math.exp(13 / 40)) and found.difference == pytest.approx(13 / 40)


def test_strata_are_resampled_each_for_itself() -> None:
    """Two tasks of constant but different answers: within each nothing varies."""
    ours, theirs, tasks = [1.0] * 50 + [0.0] * 50, [0.0] * 100, ["a"] * 50 + ["b"] * 50
    within = compare_means(ours, theirs, strata=tasks).difference_interval
    mixed = compare_means(ours, theirs).difference_interval
    assert (within.low, within.high) == (0.5, 0.5) and mixed.low < 0.5 < mixed.high


def test_an_original_that_knows_nothing_gives_an_infinite_ratio_and_null_in_json() -> None:
    found = compare_means([1, 0, 1], [0, 0, 0])
    assert found.ratio == math.inf and as_json({"ratio": [found.ratio]}) == {"ratio": [None]}


def test_one_item_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2 items, there are 1"):
        compare_means([1.0], [2.0])


def test_three_seeds_give_a_mean_and_a_spread() -> None:
    found = SeedSpread((10.0, 11.0, 12.0))
    assert (found.mean, found.spread) == (11, 1)
    with pytest.raises(ValueError, match="at least 2 seeds"):
        SeedSpread((10.0,))


def beside(name: str | Path, files: list[Path], documents: int) -> tuple[Comparison, float]:
    """A model with one layer's weights 1 % too large against the model itself; and how often chance is called real.

    The chance is the differences that a bf16 cast makes in each document, their signs drawn. Whether the cast itself
    is harmful no test can ask: a machine's own rounding decides that.
    """
    folder = locate(name)
    corpus = encode_corpus("text", read_documents(files, documents), Tokenizer.open(folder), 512)
    planted = load(folder)
    for weight in planted.layers[0].parameters():
        weight.data.mul_(1.01 if weight.dim() == 2 else 1)
    scores = score_together([load(folder), planted, load(folder, dtype="bfloat16")], corpus.ids)
    counts = [document.num_tokens for document in scores[0].documents]
    original, changed, cast = (np.array([document.nats for document in score.documents]) for score in scores)
    return compare_perplexities(changed, original, counts), called_real(cast - original, original, counts)


def called_real(differences: Floats, original: Floats, counts: list[int]) -> float:
    signs = np.random.default_rng(0).choice((-1, 1), (200, len(differences)))
    found = [compare_perplexities(original + each * differences, original, counts, resamples=1000) for each in signs]
    return float(np.mean([each.sign != 0 for each in found]))


def test_an_error_of_one_percent_in_one_layer_is_significant_and_chance_is_not() -> None:
    planted, chance = beside("stories260k", [embedded_text()], 60)
    assert planted.sign != 0 and 0.01 <= chance <= 0.12


@pytest.mark.real
def test_on_a_real_model_too_an_error_is_significant_and_chance_is_not() -> None:
    torch.set_num_threads(2)
    folder = locate("smollm2")
    if not PEPS.exists():
        pytest.skip(f"the text {PEPS.name} is not at hand")
    planted, chance = beside(folder, [PEPS], 20)
    assert planted.sign != 0 and 0.01 <= chance <= 0.15
