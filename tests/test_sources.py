"""Encoder-decoders compute what the original implementation computes, and no feature of theirs can be wrong unseen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from source_cases import END, SOURCE_CASES, SOURCE_PLANTS, START, SourceCase, logits_of
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention

from moesaic.engine.llm import LLM
from moesaic.engine.paged_source import SourceSpan
from moesaic.engine.runner import ModelRunner, Span
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError
from moesaic.models.relative import past_buckets

SOURCES = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([40, 13, 1])
IDS = torch.cat(
    [torch.full((3, 1), START), torch.randint(0, 256, (3, 30), generator=torch.Generator().manual_seed(2))], 1
)
MASK = (torch.arange(40) < LENGTHS[:, None]).long()
NEW, CHUNK = 8, 7
BY_FEATURE = [(case, feature) for case in SOURCE_CASES for feature in case.features]
SEARCHES: Sequence[Mapping[str, Any]] = (
    {"num_beams": 3}, {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 2, "length_penalty": 0.5, "early_stopping": "never"},
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@dataclass(frozen=True)
class Made:
    """The directory of a case, the original implementation of it, and its logits."""

    folder: Path
    original: Any
    logits: Tensor


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[SourceCase], Made]:
    """Builds each case once."""
    found = dict[str, Made]()

    def make(case: SourceCase) -> Made:
        if str(case) not in found:
            folder = tmp_path_factory.mktemp("sources")
            original = case.build(folder)
            found[str(case)] = Made(folder, original, expected_of(original))
        return found[str(case)]

    return make


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def expected_of(model: Any) -> Tensor:
    found: Tensor = model(input_ids=SOURCES, attention_mask=MASK, decoder_input_ids=IDS).logits
    return found


def theirs(model: Any, row: int, **settings: Any) -> list[int]:
    """The new tokens after one source, without the end."""
    source = SOURCES[row : row + 1, : LENGTHS[row]]
    found = model.generate(
        source, attention_mask=torch.ones_like(source), do_sample=False, max_new_tokens=NEW, **settings
    )
    new: list[int] = found[0, 1:].tolist()
    return new[: new.index(END)] if END in new else new


def ours(llm: LLM, rows: Sequence[int], **settings: Any) -> list[list[int]]:
    """The same of several at once."""
    sources = [SOURCES[row, : LENGTHS[row]].tolist() for row in rows]
    return [list(each.token_ids) for each in llm.generate(sources, max_new_tokens=NEW, **settings)]


@pytest.mark.parametrize("case", SOURCE_CASES, ids=str)
def test_logits_are_those_of_transformers_and_padding_is_not_seen(case: SourceCase, made: Any) -> None:
    expected, model = made(case).logits, load(made(case).folder)
    assert error(logits_of(model, SOURCES, LENGTHS, IDS), expected) <= 1e-5
    for row, length in enumerate(LENGTHS.tolist()):
        some = slice(row, row + 1)
        assert error(logits_of(model, SOURCES[some, :length], None, IDS[some]), expected[some]) <= 1e-5


@pytest.mark.parametrize("case", SOURCE_CASES, ids=str)
def test_tokens_of_greedy_and_beam_search_are_those_of_transformers(case: SourceCase, made: Any) -> None:
    original, rows = made(case).original, range(3)
    llm = LLM(made(case).folder)
    assert ours(llm, rows) == [theirs(original, row) for row in rows]
    numbers = {False: 0, True: 1, "never": 2}
    for search in SEARCHES:
        here = {**search, "early_stopping": numbers[search.get("early_stopping", False)]}
        assert ours(llm, rows, **here) == [theirs(original, row, **search) for row in rows]


@pytest.mark.parametrize("case", SOURCE_CASES, ids=str)
def test_a_decode_over_pages_is_the_full_pass(case: SourceCase, made: Any) -> None:
    expected, runner = made(case).logits, ModelRunner(load(made(case).folder), 32, 64, torch.float32)
    assert runner.without_program == ""
    tables = [[3 * row, 3 * row + 1, 20 - row] for row in range(3)]
    sources = [[21 + 3 * row, 22 + 3 * row, 23 + 3 * row] for row in range(3)]
    found = []
    for begin in range(0, IDS.shape[1], CHUNK):
        spans = []
        for row, length in enumerate(LENGTHS.tolist()):
            ids, unread = IDS[row, begin : begin + CHUNK].tolist(), SOURCES[row, :length].tolist()
            source = SourceSpan([] if begin else unread, length, sources[row])
            spans.append(Span(ids, begin, tables[row], scored=len(ids), source=source))
        found.append(runner.forward(spans).logits.view(3, -1, 259))
    assert error(torch.cat(found, 1), expected) <= 1e-5


@pytest.mark.parametrize(("case", "feature"), BY_FEATURE, ids=str)
def test_a_feature_that_is_wrong_is_seen(case: SourceCase, feature: str, made: Any) -> None:
    wrong = SOURCE_PLANTS[feature](open_checkpoint(made(case).folder))
    assert error(logits_of(wrong, SOURCES, LENGTHS, IDS), made(case).logits) > 1e-4


def test_every_feature_has_a_planted_bug() -> None:
    assert {feature for _, feature in BY_FEATURE} == SOURCE_PLANTS.keys()


def test_distances_back_have_the_buckets_of_transformers() -> None:
    places = torch.arange(300)
    for buckets, farthest in ((32, 128), (8, 20), (6, 40)):
        expected = T5Attention._relative_position_bucket(-places, False, buckets, farthest)
        assert torch.equal(past_buckets(300, buckets, farthest), expected)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_embedding_beside_the_shared_one_must_be_the_same(family: str, tmp_path: Path) -> None:
    case = next(case for case in SOURCE_CASES if case.family == family)
    expected = expected_of(case.build(tmp_path))
    weights = load_file(tmp_path / "model.safetensors")
    first, shared = ("", "shared.weight") if family == "t5" else ("model.", "model.shared.weight")
    again = {f"{first}encoder.embed_tokens.weight": weights[shared].clone()}
    save_file(weights | again, tmp_path / "model.safetensors")
    assert error(logits_of(load(tmp_path), SOURCES, LENGTHS, IDS), expected) <= 1e-5
    save_file(weights | {name: each + 1 for name, each in again.items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="embed_tokens.weight differs from .*shared.weight.* one embedding"):
        load(tmp_path)


def test_a_decoder_without_what_it_goes_on_from_says_so(tmp_path: Path) -> None:
    SOURCE_CASES[0].build(tmp_path)
    with pytest.raises(ValueError, match="a t5 goes on from a source: give what `read` makes of it"):
        load(tmp_path)(IDS)


def test_pickled_weights_are_written_anew_by_the_class_for_two_sides(tmp_path: Path) -> None:
    SOURCE_CASES[0].build(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle.* import AutoModelForSeq2SeqLM as A"):
        load(tmp_path)
