"""Windows, soft caps and scales of attention: torch, C++ in every instruction set, and one pass agree with fp64."""

from itertools import pairwise

import pytest
import torch
from attention_cases import FORMS, NATIVE, Case, assert_close, case_of
from kernel_harness import library
from torch import Tensor

from moesaic.kernels.paged_attention import BLOCK_TOKENS
from moesaic.kernels.weighing import Weighing
from moesaic.models.context import CausalContext

SEQUENCES = [(20, 45), (0, 1), (147, 3), (0, 150), (200, 1)]
WEIGHINGS = [
    Weighing(window=1), Weighing(window=9), Weighing(window=64), Weighing(window=70), Weighing(window=1000),
    Weighing(soft_cap=0.5), Weighing(soft_cap=50.0), Weighing(scale=0.7), Weighing(0.4, 33, 2.0),
]  # fmt: skip


def row_by_row(case: Case, weighing: Weighing) -> Tensor:
    """The answer in fp64, one token at a time, from what lies in the pages after it was stored."""
    rows, group = [], case.query.shape[1] // case.key.shape[1]
    for row, position, query in zip(case.tokens.row.tolist(), case.tokens.positions.tolist(), case.query, strict=True):
        first = max(0, position - weighing.window + 1) if weighing.window else 0
        places = torch.arange(first, position + 1)
        blocks, slots = case.tokens.tables[row][places // BLOCK_TOKENS].long(), places % BLOCK_TOKENS
        kept = []
        for page, scale in ((case.pages.keys, case.pages.key_scale), (case.pages.values, case.pages.value_scale)):
            wide = page[blocks, :, slots].double() * (
                1 if scale is None else scale[blocks, :, slots].double()[..., None]
            )
            kept.append(wide[..., : query.shape[-1]].repeat_interleave(group, 1))
        scores = (kept[0] * query.double()).sum(-1) * (weighing.scale or query.shape[-1] ** -0.5)
        if weighing.soft_cap:
            scores = weighing.soft_cap * (scores / weighing.soft_cap).tanh()
        rows.append((scores.softmax(0)[..., None] * kept[1]).sum(0))
    return torch.stack(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighing", WEIGHINGS, ids=str)
def test_torch_gives_what_each_token_alone_sees(weighing: Weighing, form: str) -> None:
    case = case_of(SEQUENCES, 6, 2, 24, form)
    found = case.torch(weighing)
    assert_close(found, row_by_row(case, weighing).to(found.dtype))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighing", WEIGHINGS, ids=str)
def test_native_gives_what_each_token_alone_sees(weighing: Weighing, form: str, isa: str) -> None:
    case = case_of(SEQUENCES, 6, 2, 24, form)
    found = case.native(library(isa), weighing)
    assert_close(found, row_by_row(case, weighing).to(found.dtype))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("weighing", WEIGHINGS, ids=str)
def test_a_token_has_the_same_bits_alone_and_in_any_chunk(weighing: Weighing, isa: str) -> None:
    shape = [(50, 61), (0, 34), (230, 1)], 6, 2, 24, "fp32", 0.0
    case, chunks = case_of(*shape), case_of(*shape)
    together = case.native(library(isa), weighing)
    alone = torch.cat([case.part([token]).native(library(isa), weighing) for token in range(len(together))])
    assert torch.equal(alone, together)
    cuts = [range(begin, end) for begin, end in pairwise((0, 7, 20, 49, 80, 96))]
    assert torch.equal(torch.cat([chunks.part(cut).native(library(isa), weighing) for cut in cuts]), together)


def test_a_lone_token_does_not_read_what_lies_far_behind_its_window() -> None:
    case = case_of([(400, 1)])
    far = case.tokens.tables[0, : 320 // BLOCK_TOKENS].long()
    case.pages.keys[far], case.pages.values[far] = torch.nan, torch.nan
    assert case.native(library(NATIVE[-1]), Weighing(window=50)).isfinite().all()


@pytest.mark.parametrize("weighing", WEIGHINGS, ids=str)
def test_one_pass_over_a_whole_text_agrees(weighing: Weighing) -> None:
    case = case_of([(0, 75)], 6, 2, 24)
    query, key, value = (each.transpose(0, 1).unsqueeze(0) for each in (case.query, case.key, case.value))
    assert_close(CausalContext().attend(0, query, key, value, weighing)[0].transpose(0, 1), case.torch(weighing))
