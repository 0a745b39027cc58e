"""The Triton kernels of the graded linear: the bits of the judge, alone and in any batch."""

import pytest
import torch
from graded_cases import thresholds_of, tokens_of, weights_of
from kernel_harness import poison_new_tensors
from torch import Tensor

from moesaic.kernels.graded.launches import MOST_TOKENS, graded_linear_triton, takes
from moesaic.kernels.graded.layout import pack_graded
from moesaic.kernels.graded.lists import CHUNK, MAX_ROWS, SLOTS, TURN, Lists, listed, rows_of
from moesaic.kernels.graded.multiply import graded_tile
from moesaic.kernels.graded_linear import GradedResult, GradedWeights, graded_levels, graded_linear_torch
from moesaic.kernels.rows import measured


def by_triton(x: Tensor, weights: GradedWeights, thresholds: Tensor, device: str) -> GradedResult:
    bias = None if weights.bias is None else weights.bias.to(device)
    packed, there = weights.packed.to(device), [weights.scale.to(device), weights.worth.to(device), bias]
    y, counts = graded_linear_triton(x.to(device), packed, there[0], there[1], there[2], thresholds.to(device))  # type: ignore[arg-type]
    return GradedResult(y.cpu(), counts.cpu())


def same(found: GradedResult, expected: GradedResult) -> bool:
    alike = torch.equal(found.y.nan_to_num(7e7), expected.y.nan_to_num(7e7))
    return alike and found.y.dtype == expected.y.dtype and torch.equal(found.counts, expected.counts)


@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs", "dtype"),
    [
        (3, 37, 17, torch.float32),
        (5, 11, 129, torch.bfloat16),
        (1, 64, 128, torch.float16),
        (2, 6, 193, torch.float64),
        (9, 5, 65, torch.float32),
        (1, 1, 1, torch.float32),
    ],
    ids=str,
)
def test_the_kernels_give_the_bits_of_the_judge(
    tokens: int, inputs: int, outputs: int, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, x = weights_of(inputs, outputs, biased=tokens > 1), tokens_of(tokens, inputs).to(dtype)
    thresholds = thresholds_of(x, weights)
    poison_new_tensors(monkeypatch)
    assert same(by_triton(x, weights, thresholds, device), graded_linear_torch(x, weights, thresholds))


def test_chunks_and_parts_of_them_add_up(device: str) -> None:
    weights, x = weights_of(CHUNK + 40, 34), tokens_of(1, CHUNK + 40)
    thresholds = (x.abs() * weights.worth[1]).median().reshape(1)
    found = by_triton(x, weights, thresholds, device)
    assert same(found, graded_linear_torch(x, weights, thresholds)) and len(set(found.counts.flatten().tolist())) == 2


def test_a_token_has_the_same_bits_alone_and_in_any_batch(device: str) -> None:
    weights, x = weights_of(13, 20, biased=True), tokens_of(5, 13)
    thresholds = thresholds_of(x, weights)
    together = by_triton(x, weights, thresholds, device)
    alone = [by_triton(x[t : t + 1], weights, thresholds[t : t + 1], device) for t in range(5)]
    assert torch.equal(torch.cat([each.y for each in alone]), together.y)
    assert torch.equal(torch.cat([each.counts for each in alone], dim=1), together.counts)


def test_a_token_that_is_no_number_harms_no_other(device: str) -> None:
    weights, x = weights_of(6, 5, biased=True), tokens_of(4, 6)
    thresholds = torch.tensor([0.0, 0.0, torch.nan, -1.0])
    x[0, 3], x[1, 1], x[3] = torch.inf, torch.nan, 0.0
    found = by_triton(x, weights, thresholds, device)
    assert found.y[:3].isnan().all() and same(found, graded_linear_torch(x, weights, thresholds))


@pytest.mark.parametrize("size", [1e-45, 1e-38, 3e-34, 3e38])
def test_tokens_of_any_size_are_numbers(size: float, device: str) -> None:
    weights, x = weights_of(5, 4), torch.tensor([[1.0, -0.3, 0.0, 0.77, 1e-3]]) * size
    found = by_triton(x, weights, torch.zeros(1), device)
    assert same(found, graded_linear_torch(x, weights, torch.zeros(1))) and found.y.isfinite().all()


@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sums_of_a_chunk_are_exact(value: int, device: str) -> None:
    weights = GradedWeights(pack_graded(torch.full((1, CHUNK), value).to(torch.int8)), torch.ones(1), torch.ones(3))
    x = torch.ones(1, CHUNK)
    assert same(by_triton(x, weights, torch.zeros(1), device), graded_linear_torch(x, weights, torch.zeros(1)))


# --- lists ----------------------------------------------------------------------------------------------------------


def lists_of(x: Tensor, weights: GradedWeights, thresholds: Tensor, device: str) -> Lists:
    found = listed(measured(x.to(device)), weights.worth.to(device), thresholds.to(device))
    return Lists(found.rows, *(each.cpu() for each in found[1:]))


def test_each_input_stands_once_in_the_list_of_the_furthest_row(device: str) -> None:
    weights, x = weights_of(CHUNK + 9, 3), tokens_of(3, CHUNK + 9)
    thresholds = thresholds_of(x, weights)
    lists, union = lists_of(x, weights, thresholds, device), graded_levels(x, weights.worth, thresholds).amax(0)
    for chunk in range(2):
        turns = lists.turns[0, chunk].tolist()
        for level in range(3):
            begin, end = TURN * turns[level], TURN * turns[level + 1]
            wanted = (union == level + 1).nonzero().flatten()
            wanted = wanted[wanted // CHUNK == chunk]
            entries = lists.entries[0, chunk, begin:end]
            assert torch.equal(entries[: len(wanted)], wanted.int()) and end - begin - len(wanted) < TURN
            assert (entries[len(wanted) :] == wanted[-1:].int()).all() and end <= SLOTS


def test_what_fills_a_turn_up_weighs_nothing(device: str) -> None:
    weights, x = weights_of(9, 3), torch.ones(1, 9)
    lists = lists_of(x, weights, torch.zeros(1), device)
    assert lists.turns.flatten().tolist() == [0, 0, 0, 3]
    pairs = lists.pairs.view(torch.int16).flatten()[:12]
    assert pairs.tolist() == [32639] * 9 + [0] * 3


def test_rows_stand_in_groups_of_powers_of_two() -> None:
    assert [rows_of(tokens) for tokens in (1, 2, 3, 4, 5, 8, 9, 32)] == [1, 2, 4, 4, 8, 8, 8, 8]


# --- which way ------------------------------------------------------------------------------------------------------


def test_a_few_tokens_of_the_usual_planes_have_kernels() -> None:
    usual, other = (weights_of(4, 4, planes).packed for planes in ((4, 2, 2), (4, 4)))
    assert [takes(usual, tokens) for tokens in (0, 1, MOST_TOKENS, MOST_TOKENS + 1)] == [False, True, True, False]
    assert not takes(other, 1)


def test_programs_are_enough_to_keep_memory_busy_and_parts_are_no_more_than_needed() -> None:
    for rows in (1, 2, 4, MAX_ROWS):
        small, large = graded_tile(rows, 18, 3), graded_tile(rows, 4 * 224, 16)
        assert small.parts == 8 and large.parts < 8 and small.words == large.words == (64 if rows > 4 else 128)
