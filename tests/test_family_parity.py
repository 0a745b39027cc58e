"""Every family computes what the original implementation computes, and no feature of it can be wrong unseen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_cases import ENCODER_CASES
from family_cases import CASES, DECODERS, PLANTS, Case, fullest, table
from house import ROOT
from source_cases import SOURCE_CASES
from torch import Tensor

from moesaic.engine.llm import LLM
from moesaic.engine.runner import ModelRunner, Span
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.families.registry import FAMILIES
from moesaic.models.program import gap

IDS = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(1))
PROMPT, NEW, CHUNK, END = 27, 8, 11, 257
BY_FEATURE = [(case, feature) for case in CASES for feature in case.features]


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in parts of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def theirs_of(model: Any) -> tuple[Tensor, list[int]]:
    """Logits of IDS, and the greedy tokens after the first row's beginning."""
    greedy = model.generate(
        IDS[:1, :PROMPT], attention_mask=torch.ones(1, PROMPT, dtype=torch.long), max_new_tokens=NEW,
        min_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return model(IDS).logits, greedy[0, PROMPT:].tolist()


def runner_of(folder: Path, programmed: bool, int8_pages: bool = False) -> ModelRunner:
    return ModelRunner(load(folder), 8, 64, torch.float32, int8_pages=int8_pages, programmed=programmed)


def in_chunks(runner: ModelRunner, ids: Sequence[int], table: Sequence[int] = (5, 2, 7, 1)) -> Tensor:
    """Logits of all tokens, read a chunk at a time."""
    starts = range(0, len(ids), CHUNK)
    spans = [Span(ids[i : i + CHUNK], i, table, scored=len(ids[i : i + CHUNK])) for i in starts]
    return torch.cat([runner.forward([span]).logits for span in spans])


def greedy(runner: ModelRunner, ids: Sequence[int], table: Sequence[int] = (5, 2, 7, 1)) -> list[int]:
    found, last = list[int](), in_chunks(runner, ids)[-1]
    while True:
        found.append(int(last.argmax()))
        if len(found) == NEW:
            return found
        last = runner.forward([Span([found[-1]], len(ids) + len(found) - 1, table)]).logits[-1]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_and_greedy_tokens_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    expected, tokens = theirs_of(case.build(tmp_path))
    with torch.no_grad():
        assert error(load(tmp_path)(IDS), expected) <= 1e-5
    missing = gap(open_checkpoint(tmp_path).spec)
    for programmed in (True, False):
        runner = runner_of(tmp_path, programmed)
        assert runner.without_program == (missing if programmed else "nobody asked for one")
        assert error(in_chunks(runner, IDS[0].tolist()), expected[0]) <= 1e-5
        assert greedy(runner, IDS[0, :PROMPT].tolist()) == tokens


@pytest.mark.parametrize("family", DECODERS)
def test_a_beam_search_finds_what_transformers_finds(family: str, tmp_path: Path) -> None:
    original, prompt = fullest(family).build(tmp_path), IDS[:1, :PROMPT]
    expected = original.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, num_beams=3,
        num_return_sequences=3, pad_token_id=0, eos_token_id=END,
    )[:, PROMPT:].tolist()  # fmt: skip
    [found] = LLM(tmp_path).generate(prompt.tolist(), temperature=0, num_beams=3, n=3, max_new_tokens=NEW)
    answers = [list(each) for each in (found.token_ids, *(other.token_ids for other in found.others))]
    assert answers == [each[: each.index(END)] if END in each else each for each in expected]


@pytest.mark.parametrize(("case", "feature"), BY_FEATURE, ids=str)
@torch.no_grad()
def test_a_feature_that_is_wrong_is_seen(case: Case, feature: str, tmp_path: Path) -> None:
    expected = case.build(tmp_path)(IDS).logits
    assert error(PLANTS[feature](open_checkpoint(tmp_path))(IDS), expected) > 1e-4


def test_every_family_has_three_models_and_every_feature_a_planted_bug() -> None:
    cases = (*CASES, *ENCODER_CASES, *SOURCE_CASES)
    assert {name: sum(case.family == name for case in cases) >= 3 for name in FAMILIES} == dict.fromkeys(FAMILIES, True)
    assert {feature for _, feature in BY_FEATURE} == PLANTS.keys()


def test_the_page_has_the_table_of_these_cases() -> None:
    assert "\n".join(table((*CASES, *ENCODER_CASES, *SOURCE_CASES))) in (ROOT / "docs/families.md").read_text()
