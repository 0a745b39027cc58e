"""Windows, soft caps and scales of attention: torch, C++ in every instruction set, and one pass agree with fp64."""

from itertools import pairwise

import pytest
import torch
from kernel_harness import library
from test_paged_attention import FORMS, NATIVE, Case, assert_close, case_of, exact
from torch import Tensor

from moesaic.kernels.paged_attention import BLOCK_TOKENS, by_library, paged_attention_torch
from moesaic.kernels.scoring import Scoring
from moesaic.models.context import CausalContext

SEQUENCES = [(20, 45), (0, 1), (147, 3), (0, 150), (200, 1)]
SCORINGS = [
    Scoring(window=1), Scoring(window=9), Scoring(window=64), Scoring(window=70), Scoring(window=1000),
    Scoring(soft_cap=0.5), Scoring(soft_cap=50.0), Scoring(scale=0.7), Scoring(0.4, 33, 2.0),
]  # fmt: skip


def by_torch(case: Case, scoring: Scoring) -> Tensor:
    return paged_attention_torch(case.query, case.key, case.value, case.pages, case.tokens, scoring)


def natively(case: Case, scoring: Scoring, isa: str) -> Tensor:
    return by_library(case.query, case.key, case.value, case.pages, case.tokens, library(isa), scoring)


def row_by_row(case: Case, scoring: Scoring) -> Tensor:
    """The answer in fp64, one token at a time, from what lies in the pages after it was stored."""
    rows, group = [], case.query.shape[1] // case.key.shape[1]
    for row, position, query in zip(case.tokens.row.tolist(), case.tokens.positions.tolist(), case.query, strict=True):
        first = max(0, position - scoring.window + 1) if scoring.window else 0
        places = torch.arange(first, position + 1)
        blocks, slots = case.tokens.tables[row][places // BLOCK_TOKENS].long(), places % BLOCK_TOKENS
        kept = []
        for page, scale in ((case.pages.keys, case.pages.key_scale), (case.pages.values, case.pages.value_scale)):
            wide = page[blocks, :, slots].double() * (1 if scale is None else scale[blocks, :, slots].double()[..., None])
            kept.append(wide[..., : query.shape[-1]].repeat_interleave(group, 1))
        scores = (kept[0] * query.double()).sum(-1) * (scoring.scale or query.shape[-1] ** -0.5)
        if scoring.soft_cap:
            scores = scoring.soft_cap * (scores / scoring.soft_cap).tanh()
        rows.append((scores.softmax(0)[..., None] * kept[1]).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
def test_torch_gives_what_each_token_alone_sees(scoring: Scoring, form: str) -> None:
    case = case_of(SEQUENCES, 6, 2, 24, form)
    found = by_torch(case, scoring)
    assert_close(found, row_by_row(case, scoring).to(found.dtype))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
def test_native_gives_what_each_token_alone_sees(scoring: Scoring, form: str, isa: str) -> None:
    case = case_of(SEQUENCES, 6, 2, 24, form)
    found = natively(case, scoring, isa)
    assert_close(found, row_by_row(case, scoring).to(found.dtype))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
def test_a_token_has_the_same_bits_alone_and_in_any_chunk(scoring: Scoring, isa: str) -> None:
    shape = [(50, 61), (0, 34), (230, 1)], 6, 2, 24, "fp32", 0.0
    case, chunks = case_of(*shape), case_of(*shape)
    together = natively(case, scoring, isa)
    alone = torch.cat([natively(case.part([token]), scoring, isa) for token in range(len(together))])
    assert torch.equal(alone, together)
    cuts = [range(begin, end) for begin, end in pairwise((0, 7, 20, 49, 80, 96))]
    assert torch.equal(torch.cat([natively(chunks.part(cut), scoring, isa) for cut in cuts]), together)


def test_a_lone_token_does_not_read_what_lies_far_behind_its_window() -> None:
    case = case_of([(400, 1)])
    far = case.tokens.tables[0, : 320 // BLOCK_TOKENS].long()
    case.pages.keys[far], case.pages.values[far] = torch.nan, torch.nan
    assert natively(case, Scoring(window=50), NATIVE[-1]).isfinite().all()


@pytest.mark.parametrize("scoring", SCORINGS, ids=str)
def test_one_pass_over_a_whole_text_agrees(scoring: Scoring) -> None:
    case = case_of([(0, 75)], 6, 2, 24)
    parts = (each.transpose(0, 1).unsqueeze(0) for each in (case.query, case.key, case.value))
    assert_close(CausalContext().attend(0, *parts, scoring)[0].transpose(0, 1), by_torch(case, scoring))


def test_without_a_window_or_cap_it_is_the_attention_of_old() -> None:
    case = case_of(SEQUENCES, 6, 2, 24)
    found = by_torch(case, Scoring())
    assert_close(found, exact(case, 6, 2).to(found.dtype))
