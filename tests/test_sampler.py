"""The sampler is judged by the definition: what is drawn, how often, by which random numbers, after which changes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from moesaic.engine.candidates import cut_candidates
from moesaic.engine.counter import philox, uniforms
from moesaic.engine.cut import Options, cut
from moesaic.engine.distribution import filtered_probabilities
from moesaic.engine.drawing import Drawing
from moesaic.engine.logprobs import prompt_logprobs
from moesaic.engine.request import Request, Stopping
from moesaic.engine.sampler import NO_TOKEN, NOT_FINITE, _pick, changed_, draw, drawn_from_all, drawn_from_cut
from moesaic.engine.sampling import Sampling
from moesaic.engine.token_rules import TokenRules

VOCAB = 1000
DRAWS = 4000
LIMITS: list[Mapping[str, Any]] = [
    {}, {"temperature": 0.5}, {"top_k": 5}, {"top_k": 300}, {"top_p": 0.6}, {"top_p": 0.95}, {"min_p": 0.1},
    {"typical_p": 0.3}, {"typical_p": 0.9}, {"top_k": 40, "top_p": 0.8}, {"top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.7, "top_k": 90, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.8},
]  # fmt: skip


def peaked(rows: int = 1, vocab: int = VOCAB, seed: int = 0) -> Tensor:
    """Logits whose order is not that of ids, a few of them far above the rest."""
    generator = torch.Generator().manual_seed(seed)
    falling = -1.5 * torch.arange(1, vocab + 1).log()
    return torch.stack([falling[torch.randperm(vocab, generator=generator)] for _ in range(rows)])


def drawing(
    sampling: Sampling | None = None, key: int = 0, prompt: Sequence[int] = (1, 2), rules: TokenRules | None = None
) -> Drawing:
    request = Request(key, tuple(prompt), sampling or Sampling(), token_rules=rules or TokenRules())
    return Drawing(request, 0, 77 + key)


def changed(logits: Tensor, sampling: Sampling, new: Sequence[int] = (), **more: Any) -> Tensor:
    """The logits [vocab] as they are after so many tokens, seen through log probabilities of the greedy way."""
    ours = drawing(sampling, **more)
    for token in new:
        ours.take(token)
    return changed_(logits.clone().unsqueeze(0), [ours])[0]


def chi_square(seen: Tensor, expected: Tensor) -> float:
    """How likely counts at least so far from the expected ones are."""
    distance = ((seen - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2).double(), distance.double() / 2))


def options_of(sampling: Sampling, rows: int) -> Options:
    numbers = sampling.temperature, sampling.top_k or math.inf, sampling.top_p, sampling.min_p, sampling.typical_p
    table = torch.tensor([numbers] * rows, dtype=torch.float64)
    return Options(table, frozenset(("top_k", "top_p", "typical_p")))


# --- random numbers ------------------------------------------------------------------------------------------------

PUBLISHED = [  # kat_vectors of Random123, philox4x32 with 10 rounds: counter, key, result
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_the_counter_gives_the_published_words(counter: str, key: str, expected: str) -> None:
    words = philox(*(tuple(torch.tensor(int(word, 16)) for word in each.split()) for each in (counter, key)))
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_random_numbers_are_even_and_differ_by_seed_answer_and_position() -> None:
    numbers = uniforms(3, 0, torch.arange(20_000))
    assert chi_square(torch.histc(numbers, 50, 0, 1), torch.full((50,), 400.0)) > 0.001 and numbers.max() < 1
    some = [uniforms(seed, choice, torch.arange(9)) for seed, choice in ((3, 0), (4, 0), (3 + 2**32, 0), (3, 1))]
    assert len({round(float(x), 12) for each in some for x in each}) == 36


def test_a_position_has_its_number_however_it_is_come_to() -> None:
    ours = drawing(Sampling(seed=2**64 - 1))
    for position in range(130):
        assert ours.uniform == float(uniforms(2**64 - 1, 0, torch.tensor([position])))
        ours.take(5)


# --- distributions -------------------------------------------------------------------------------------------------


def judged(tokens: Tensor, logits: Tensor, sampling: Sampling) -> float:
    """p of a chi-square test against the definition; nothing else may be drawn."""
    probabilities, ids = filtered_probabilities(logits, sampling)
    counts = torch.bincount(tokens, minlength=len(logits))
    assert counts[ids].sum() == len(tokens)
    often = probabilities * len(tokens) >= 5
    seen, expected = counts[ids[often]].double(), probabilities[often].double() * len(tokens)
    rest = len(tokens) - expected.sum()
    if rest > 1e-6 * len(tokens):
        seen, expected = torch.cat([seen, len(tokens) - seen.sum()[None]]), torch.cat([expected, rest[None]])
    return chi_square(seen, expected / expected.sum() * seen.sum())


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_draws_follow_the_definition(limits: Mapping[str, Any]) -> None:
    sampling, logits = Sampling(**limits), peaked()
    choose = drawn_from_cut if set(limits) - {"temperature"} else drawn_from_all
    many, uniform = logits.expand(DRAWS, -1), uniforms(7, 0, torch.arange(DRAWS)).unsqueeze(1)
    tokens = choose(many, many.amax(-1, keepdim=True), options_of(sampling, DRAWS), uniform)
    assert judged(tokens, logits[0], sampling) > 0.001


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 1000, 5000])
def test_a_cut_keeps_what_the_definition_keeps_with_and_without_ties(limits: Mapping[str, Any], vocab: int) -> None:
    sampling = Sampling(**limits)
    guessed_wrong = -0.7 * (torch.arange(vocab) % 64 > 0).float()  # most of a block is just below its largest
    ties = (4 * peaked(vocab=vocab)).round() / 4
    for logits in (peaked(vocab=vocab), ties, torch.zeros(1, vocab), guessed_wrong.unsqueeze(0)):
        best, options = logits.amax(-1, keepdim=True), options_of(sampling, 1)
        few, few_ids = cut_candidates(logits, best, options)
        probabilities, ids = filtered_probabilities(logits[0], sampling)
        expected = torch.zeros(vocab).scatter(0, ids, probabilities.float())
        for weight in (cut(logits, best, options)[0], torch.zeros(vocab).scatter_add(0, few_ids[0], few[0])):
            assert torch.allclose(weight / weight.sum(), expected, atol=2e-4 if "typical_p" in limits else 1e-5)


@pytest.mark.parametrize("limits", [{"top_p": 0.9}, {"typical_p": 0.9}, {"top_k": 50}, {"min_p": 0.05}], ids=str)
def test_only_what_a_cut_may_keep_is_sorted(limits: Mapping[str, Any]) -> None:
    logits = peaked(4, 20_000)
    weight, _ = cut_candidates(logits, logits.amax(-1, keepdim=True), options_of(Sampling(**limits), 4))
    assert weight.shape[1] <= 1.3 * int((weight > 0).sum(-1).max()) + 20


@pytest.mark.parametrize("limits", [limits for limits in LIMITS if set(limits) - {"temperature"}], ids=str)
def test_few_candidates_and_the_whole_vocabulary_give_the_same_tokens(limits: Mapping[str, Any]) -> None:
    logits, uniform = peaked(200, 3000), uniforms(1, 0, torch.arange(200)).unsqueeze(1)
    options, best = options_of(Sampling(**limits), 200), logits.amax(-1, keepdim=True)
    assert torch.equal(drawn_from_cut(logits, best, options, uniform), _pick(cut(logits, best, options), uniform))


# --- rows of a step ------------------------------------------------------------------------------------------------

MIXED = [
    Sampling(temperature=0), Sampling(seed=1), Sampling(seed=1, top_p=0.9), Sampling(seed=2, top_k=7, typical_p=0.9),
    Sampling(temperature=0, repetition_penalty=1.5), Sampling(seed=3, frequency_penalty=0.5, min_p=0.02),
    Sampling(seed=4, logprobs=3), Sampling(temperature=1e-30, seed=5),
]  # fmt: skip


def continued(rows: Sequence[Drawing], steps: int, logits: Sequence[Tensor]) -> list[list[int]]:
    """The tokens of all rows, drawn together."""
    made: list[list[int]] = [[] for _ in rows]
    for step in range(steps):
        for row, drawn in enumerate(draw(logits[step][: len(rows)], rows)):
            made[row].append(drawn.token)
            rows[row].take(drawn.token)
    return made


def test_a_row_gets_the_tokens_that_it_gets_alone() -> None:
    logits = [peaked(len(MIXED), 5000, seed=step) for step in range(6)]
    together = continued([drawing(each, key) for key, each in enumerate(MIXED)], 6, logits)
    for row, sampling in enumerate(MIXED):
        alone = continued([drawing(sampling, row)], 6, [each[row : row + 1] for each in logits])
        assert alone == [together[row]]


def test_a_row_goes_on_in_another_batch_as_if_nothing_had_happened() -> None:
    logits = peaked(2)
    kept, other = drawing(Sampling(seed=9)), drawing(Sampling(seed=9))
    for _ in range(100):
        assert draw(logits[:1], [kept])[0].token == draw(logits[[1, 0]], [drawing(), other])[1].token
        kept.take(0)
        other.take(0)


def test_answers_to_one_prompt_differ_and_a_request_without_a_seed_has_its_own() -> None:
    request = Request(1, (1,), Sampling(seed=5, n=4))
    logits = peaked(4, 5000, seed=1)[:1].expand(4, -1) * 0.3
    assert len({each.token for each in draw(logits, [Drawing(request, choice, 0) for choice in range(4)])}) > 2
    assert len({each.token for each in draw(logits, [drawing(key=key) for key in range(4)])}) > 2


def test_the_logits_stay_as_they_are() -> None:
    logits = peaked(len(MIXED))
    before = logits.clone()
    draw(logits, [drawing(each, rules=TokenRules(banned_token_ids=(4,))) for each in MIXED])
    assert torch.equal(logits, before)


WAYS = [Sampling(temperature=0), Sampling(), Sampling(top_p=0.5), Sampling(typical_p=0.5)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", WAYS)
def test_logits_that_are_not_finite_fail_their_row_alone(bad: float, sampling: Sampling) -> None:
    logits = peaked(3)
    logits[1, 700] = bad
    first, second, third = draw(logits, [drawing(sampling) for _ in range(3)])
    assert not second.finite and second.error == NOT_FINITE and first.finite and third.finite and not first.error


@pytest.mark.parametrize("sampling", WAYS)
def test_a_row_without_a_token_that_may_come_fails_alone(sampling: Sampling) -> None:
    nothing = TokenRules(banned_token_ids=tuple(range(VOCAB)))
    first, second = draw(peaked(2), [drawing(sampling), drawing(sampling, rules=nothing)])
    assert second.finite and second.error == NO_TOKEN and not first.error


@pytest.mark.parametrize("logits", [torch.zeros(1, 9), torch.tensor([[3e38, -3e38]]), torch.full((1, 70), -1e30)])
@pytest.mark.parametrize("sampling", [*MIXED[:4], Sampling(temperature=1e-30, top_p=1e-9), Sampling(typical_p=1e-9)])
def test_odd_logits_give_an_id(logits: Tensor, sampling: Sampling) -> None:
    [drawn] = draw(logits, [drawing(sampling, prompt=(0,))])
    assert not drawn.error and 0 <= drawn.token < logits.shape[1]


def test_half_precision_is_drawn_from_as_float32() -> None:
    logits = peaked(2).bfloat16()
    rows = [drawing(Sampling(temperature=0)), drawing(Sampling(seed=1))]
    assert draw(logits, rows) == draw(logits.float(), rows) and draw(logits[:0], []) == []


# --- penalties, biases, bans ---------------------------------------------------------------------------------------


def defined(logits: Tensor, sampling: Sampling, prompt: Sequence[int], new: Sequence[int]) -> Tensor:
    """Keskar and others (CTRL) for the first penalty, OpenAI for the other two."""
    result = logits.clone()
    for token in {*prompt, *new}:
        r = sampling.repetition_penalty
        result[token] = result[token] / r if result[token] > 0 else result[token] * r
    for token in set(new):
        result[token] -= sampling.presence_penalty + sampling.frequency_penalty * list(new).count(token)
    return result


@pytest.mark.parametrize(
    "penalties",
    [
        {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}, {"presence_penalty": 0.7},
        {"frequency_penalty": -0.4}, {"repetition_penalty": 1.2, "presence_penalty": 2, "frequency_penalty": 1},
    ],
    ids=str,
)  # fmt: skip
def test_penalties_are_as_they_are_defined(penalties: Any) -> None:
    logits, sampling = peaked()[0] + 3, Sampling(**penalties)
    prompt, new = [5, 6, 7, *range(100, 160)], [7, 8, 8, 8, 9]
    expected = defined(logits, sampling, prompt, new)
    assert torch.allclose(changed(logits, sampling, new, prompt=prompt), expected, atol=1e-6)


def test_a_bias_is_added_and_a_ban_is_final() -> None:
    rules = TokenRules(((3, 5.0), (4, -100.0), (5, 100.0)), banned_token_ids=(5, 6))
    expected = peaked()[0]
    expected[3], expected[4], expected[[5, 6]] = expected[3] + 5, expected[4] - 100, -math.inf
    assert torch.equal(changed(peaked()[0], Sampling(), [5, 3], rules=rules), expected)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_ban_is_final_beside_a_penalty_that_would_make_an_infinity(temperature: float) -> None:
    sampling = Sampling(temperature=temperature, repetition_penalty=1e-38)
    one = drawing(sampling, prompt=[3, 4], rules=TokenRules(banned_token_ids=(3,)))
    [drawn] = draw(peaked().abs() + 9, [one])
    assert not drawn.error and drawn.token == 4


def test_what_is_allowed_alone_may_come() -> None:
    rules = TokenRules(allowed_token_ids=(3, 900), banned_token_ids=(3,))
    assert changed(peaked()[0], Sampling(), rules=rules).isfinite().nonzero().flatten().tolist() == [900]
    assert {each.token for each in draw(peaked(40), [drawing(key=k, rules=rules) for k in range(40)])} == {900}


@pytest.mark.parametrize(("ignore_eos", "impossible"), [(False, {10, 11, 12}), (True, {12})])
def test_nothing_ends_before_the_minimum_is_there(ignore_eos: bool, impossible: set[int]) -> None:
    stopping = Stopping(stop_token_ids=(12,), ignore_eos=ignore_eos)
    request = Request(0, (1,), Sampling(temperature=0, min_new_tokens=2), stopping)
    ours, logits = Drawing(request, 0, 0, end_ids=(10, 11)), torch.zeros(1, 20)
    logits[0, 10:13] = torch.tensor([3.0, 2.0, 1.0])
    first = draw(logits, [ours])[0].token
    assert first not in impossible and (first == 10) == ignore_eos
    ours.take(0)
    ours.take(0)
    assert draw(logits, [ours])[0].token == 10


# --- log probabilities ---------------------------------------------------------------------------------------------


def test_log_probabilities_are_the_models_own() -> None:
    """Whatever the request makes of them; rows that did not ask are told nothing."""
    logits = peaked(3)
    asked = Sampling(temperature=0.5, top_k=3, presence_penalty=2, logprobs=4, seed=1)
    rows = draw(logits, [drawing(), drawing(asked), drawing(Sampling(temperature=0, logprobs=0))])
    logs = torch.log_softmax(logits, -1)
    values, ids = logs[1].topk(4)
    assert rows[0].logprob is None and rows[0].top == rows[2].top == ()
    assert rows[1].logprob == pytest.approx(float(logs[1, rows[1].token]), abs=1e-5)
    assert [token for token, _ in rows[1].top] == ids.tolist()
    assert [x for _, x in rows[1].top] == pytest.approx(values.tolist(), abs=1e-5)
    assert rows[2].logprob == pytest.approx(float(logs[2].max()), abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 20])
def test_log_probabilities_of_a_prompt(count: int) -> None:
    logits, ids = peaked(4, 12), [3, 0, 11, 5]
    told = prompt_logprobs(logits, ids, count)
    expected = torch.log_softmax(logits, -1)
    assert [each.token_id for each in told] == ids
    assert [each.logprob for each in told] == pytest.approx(expected[range(4), ids].tolist(), abs=1e-5)
    assert all(len(each.top) == min(count, 12) for each in told)
