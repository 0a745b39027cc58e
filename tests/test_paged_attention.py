"""Attention over blocks: one answer from torch and from C++, that depends on nothing but a token's own sequence."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from attention_cases import FORMS, NATIVE, Case, assert_close, case_of, parts
from kernel_harness import assert_no_worse, library, on_threads, poison_new_tensors
from torch import Tensor

from moesaic.kernels.native import ISAS
from moesaic.kernels.paged_attention import (
    BLOCK_TOKENS,
    KVPages,
    choose_paged_attention,
    paged_attention,
    paged_attention_cost,
)

SHAPES = [(9, 3, 64), (3, 3, 24), (8, 1, 80), (6, 2, 8), (4, 4, 128)]  # heads, kv heads, size of a head
MIXED = [(0, 40), (33, 7), (128, 1), (0, 1), (200, 129)]  # of each sequence: tokens before, and new ones


def exact(case: Case, heads: int, kv_heads: int) -> Tensor:
    """The answer in fp64, one token at a time, from what lies in the pages after it was stored."""
    rows = []
    for row, position, query in zip(case.tokens.row.tolist(), case.tokens.positions.tolist(), case.query, strict=True):
        blocks = case.tokens.tables[row][: position // BLOCK_TOKENS + 1].long()
        kept = []
        for page, scale in ((case.pages.keys, case.pages.key_scale), (case.pages.values, case.pages.value_scale)):
            wide = page[blocks].double() * (1 if scale is None else scale[blocks].double()[..., None])
            past = wide.transpose(0, 1).flatten(1, 2)[:, : position + 1, : query.shape[-1]]
            kept.append(past.repeat_interleave(heads // kv_heads, 0))
        weights = (kept[0] @ query.double()[..., None] * query.shape[-1] ** -0.5).softmax(1)
        rows.append((weights * kept[1]).sum(1))
    return torch.stack(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_gives_what_each_token_alone_sees(shape: tuple[int, int, int], form: str) -> None:
    case = case_of([(20, 30), (0, 1), (47, 2)], *shape, form)
    found = case.torch()
    assert_close(found, exact(case, *shape[:2]).to(found.dtype))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_native_gives_and_stores_what_torch_does(shape: tuple[int, int, int], form: str, isa: str) -> None:
    case = case_of(MIXED, *shape, form)
    other = case.copied()
    assert_close(case.native(library(isa)), other.torch())
    for ours, theirs in zip(parts(case.pages), parts(other.pages), strict=True):
        assert ours is None or theirs is None or torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))


@pytest.mark.parametrize("sequences", [[(0, 1)], [(70, 1), (15, 1), (0, 1), (300, 1)], [(63, 1)] * 7])
def test_steps_of_one_token_for_each_sequence_agree(sequences: list[tuple[int, int]]) -> None:
    case = case_of(sequences)
    assert_close(case.native(), case.copied().torch())


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("form", FORMS)
def test_a_token_has_the_same_bits_alone_and_in_any_chunk(form: str, isa: str) -> None:
    using, case = library(isa), case_of([(50, 61), (0, 34), (130, 1)], form=form)
    together = case.copied().native(using)
    alone = torch.cat([case.part([token]).native(using) for token in range(len(together))])
    assert torch.equal(alone, together)
    chunks = case_of([(50, 61), (0, 34), (130, 1)], form=form)
    cuts = [range(begin, end) for begin, end in pairwise((0, 7, 20, 49, 80, 96))]
    assert torch.equal(torch.cat([chunks.part(cut).native(using) for cut in cuts]), together)


@pytest.mark.parametrize("isa", NATIVE)
def test_blocks_may_lie_anywhere(isa: str) -> None:
    case = case_of(MIXED, beyond=0.0)
    moved = torch.randperm(len(case.pages.keys))
    pages = KVPages(torch.empty_like(case.pages.keys), torch.empty_like(case.pages.values))
    pages.keys[moved], pages.values[moved] = case.pages.keys, case.pages.values
    tables = moved[case.tokens.tables.clamp(max=len(moved) - 1).long()].int()
    elsewhere = replace(case, pages=pages, tokens=replace(case.tokens, tables=tables))
    assert torch.equal(elsewhere.native(library(isa)), case.native(library(isa)))


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_threads_changes_nothing(form: str) -> None:
    case = case_of([(0, 150), (600, 1), (100, 40)], form=form)
    answers = on_threads(lambda: case.copied().native())
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("isa", NATIVE)
def test_what_was_no_number_before_a_later_token_stays_with_that_token(isa: str) -> None:
    """Within a chunk, a token does not even multiply what comes after it by zero."""
    case = case_of([(10, 30)])
    expected = case.copied().native(library(isa))
    case.value[20:], case.key[20:] = torch.nan, torch.nan
    assert torch.equal(case.native(library(isa))[:20], expected[:20])


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("form", FORMS)
def test_padding_stays_zero(form: str, isa: str) -> None:
    case = case_of(MIXED, 6, 2, 24, form)
    case.native(library(isa))
    assert not case.pages.keys[..., 24:].any() and not case.pages.values[..., 24:].any()


@pytest.mark.parametrize("isa", NATIVE)
def test_int8_rounds_halves_to_even_and_zeros_to_zero(isa: str) -> None:
    halves = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5, 3.0])
    case = case_of([(0, 2)], 1, 1, 8, "int8")
    case.key[0], case.key[1] = halves, 0.0
    case.native(library(isa))
    stored = case.pages.keys[case.tokens.tables[0, 0], 0]
    assert stored[0, :8].tolist() == halves.round().tolist()
    assert not stored[1].any()


@pytest.mark.parametrize("isa", NATIVE)
def test_scores_that_are_far_apart_are_no_worse_than_those_of_torch(isa: str) -> None:
    case = case_of([(90, 30)])
    case.query.mul_(40)
    found, plain = case.native(library(isa)), case.copied().torch()
    assert_no_worse(found, exact(case, 9, 3), plain, 64 + 120)


@pytest.mark.parametrize("isa", NATIVE)
def test_a_key_that_is_infinite_gives_no_number_from_there_on(isa: str) -> None:
    case = case_of([(90, 3)])
    case.key[1] = torch.inf
    found = case.native(library(isa))
    assert found[0].isfinite().all() and found[1:].isnan().all()


def test_views_of_a_joint_projection_are_read_in_place() -> None:
    case = case_of(MIXED, 4, 4, 32)
    joint = torch.cat([case.query, case.key, case.value], -1).transpose(0, 1).contiguous().transpose(0, 1)
    query, key, value = (joint[..., first : first + 32] for first in (0, 32, 64))
    assert torch.equal(replace(case, query=query, key=key, value=value).native(), case.native())


def test_every_element_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(MIXED, 6, 2, 24)
    poison_new_tensors(monkeypatch)
    assert case.native().isfinite().all()


@pytest.mark.parametrize("block", [-1, 1 << 20])
def test_a_block_outside_the_pool_is_refused_before_anything_is_stored(block: int) -> None:
    case = case_of([(20, 3)])
    before = case.pages.keys.clone()
    case.tokens.tables[0, 0] = block
    with pytest.raises(IndexError, match="outside the pool"):
        case.native()
    assert torch.equal(case.pages.keys.nan_to_num(7), before.nan_to_num(7))


def test_a_step_of_no_tokens_gives_none() -> None:
    case = case_of([(20, 3)]).part([])
    assert case.native().shape == case.torch().shape == (0, 9, 64)


def test_tables_of_another_dtype_go_to_torch() -> None:
    case = case_of([(20, 3)], beyond=0.0)
    tokens = replace(case.tokens, tables=case.tokens.tables.long())
    assert_close(paged_attention(case.query, case.key, case.value, case.pages, tokens), case.native())


def test_the_door_opens_to_the_library_and_to_torch_for_gradients() -> None:
    case = case_of(MIXED, beyond=0.0)
    operands = (case.query, case.key, case.value, case.pages, case.tokens)
    assert torch.equal(paged_attention(*operands), case.native())
    case.query.requires_grad_(True)
    assert paged_attention(*operands).requires_grad


def test_the_choice_is_native_for_heads_that_fit() -> None:
    for isa in ISAS:
        assert choose_paged_attention(torch.bfloat16, 1, 256, False, isa) == "native"
    assert choose_paged_attention(torch.float32, 1, 64, False, None) == "torch"
    assert choose_paged_attention(torch.float32, 1, 272, False, "avx2") == "torch"
    assert choose_paged_attention(torch.float64, 1, 64, False, "avx2") == "torch"
    assert choose_paged_attention(torch.float32, 0, 64, False, "avx2") == "torch"
    assert choose_paged_attention(torch.float32, 1, 64, True, "avx2") == "torch"


def test_the_cost_reads_the_past_once_for_all_tokens() -> None:
    one, four = (paged_attention_cost(tokens, 9, 3, 64, 1000, 1) for tokens in (1, 4))
    assert one.bytes == 2 * 3 * 64 * 1001 + 2 * 4 * 9 * 64
    assert four.bytes < 1.1 * one.bytes and four.flops == 4 * one.flops
