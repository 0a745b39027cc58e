"""The scheduler with a fake model: whatever arrives when, everybody gets exactly their own tokens."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from moesaic.engine.engine import Engine
from moesaic.engine.request import FinishReason, Load, Request, Row, Stopping
from moesaic.engine.runner import Forward
from moesaic.engine.sampler import draw, filtered_probabilities
from moesaic.engine.sampling import Sampling

VOCABULARY = 97
CONTEXT = 40


def after(tokens: Sequence[int]) -> int:
    """The fake model's next token: it depends on every token and on their order."""
    return sum((i + 1) * token for i, token in enumerate(tokens)) % 89


class FakeRunner:
    """Slots that remember what was put in them. Token 90 in a prompt makes prefill fail, 91 makes logits NaN."""

    max_context, vocab_size = CONTEXT, VOCABULARY

    def __init__(self, num_slots: int = 3) -> None:
        self.num_slots = num_slots
        self.slots: list[list[int]] = [[] for _ in range(num_slots)]
        self.prefilled: list[int] = []

    def logits(self, slot: int) -> Tensor:
        found = torch.arange(VOCABULARY).float() / 100
        found[after(self.slots[slot])] = 9.0
        return found * float("nan") if 91 in self.slots[slot] else found

    def prefill(self, slot: int, token_ids: Sequence[int], start: int, operating_point: float) -> Forward:
        if 90 in token_ids:
            raise RuntimeError("prefill broke")
        self.prefilled.append(len(token_ids))
        self.slots[slot] = [*self.slots[slot][:start], *token_ids]
        assert len(self.slots[slot]) == start + len(token_ids) <= CONTEXT
        return Forward(self.logits(slot))

    def decode(self, token_ids: Sequence[int], positions: Sequence[int], operating_points: Sequence[float]) -> Forward:
        assert 0 < len(token_ids) == len(positions) <= self.num_slots
        for slot, (token, position) in enumerate(zip(token_ids, positions, strict=True)):
            assert len(self.slots[slot]) >= position, "a slot lost its keys and values"
            self.slots[slot] = [*self.slots[slot][:position], token]
        return Forward(torch.stack([self.logits(slot) for slot in range(len(token_ids))]))

    def move(self, source: int, target: int, num_tokens: int) -> None:
        assert source > target
        self.slots[target] = self.slots[source][:num_tokens]


def request(key: int, prompt: Sequence[int], new: int = 5, **stopping: Any) -> Request:
    return Request(key, tuple(prompt), Sampling(temperature=0), Stopping(new, **stopping))


def expected(prompt: Sequence[int], new: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new):
        tokens.append(after(tokens))
    return tokens[len(prompt) :]


def finish(engine: Engine, limit: int = 10_000) -> dict[int, list[Row]]:
    """Steps until nothing is left; the rows of each request."""
    rows: dict[int, list[Row]] = {}
    while engine.has_work:
        limit -= 1
        assert limit, "the engine does not come to an end"
        for row in engine.step():
            rows.setdefault(row.key, []).append(row)
    return rows


def tokens_of(rows: Sequence[Row]) -> list[int]:
    return [token for row in rows for token in row.token_ids]


def idle(engine: Engine) -> bool:
    load = engine.load
    return (load.free_slots, load.running, load.waiting) == (load.num_slots, 0, 0)


def test_an_engine_without_requests_has_nothing_to_do() -> None:
    engine = Engine(FakeRunner())
    assert engine.step() == [] and not engine.has_work and engine.load == Load(3, 3, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_every_request_gets_its_own_tokens_in_any_order_of_arrival(seed: int) -> None:
    chance = random.Random(seed)
    engine = Engine(FakeRunner(chance.randint(1, 5)), prefill_chunk=chance.randint(1, 9))
    waiting = [
        request(key, [chance.randrange(90) for _ in range(chance.randint(1, 20))], chance.randint(1, 15))
        for key in range(12)
    ]
    wanted = {each.key: expected(each.prompt_ids, each.stopping.max_new_tokens) for each in waiting}
    rows: list[Row] = []
    while waiting or engine.has_work:
        if waiting and chance.random() < 0.4:
            engine.add(waiting.pop())
        rows += engine.step()
    assert {key: tokens_of([row for row in rows if row.key == key]) for key in wanted} == wanted
    assert Counter(row.key for row in rows if row.finish) == Counter(wanted.keys()) and idle(engine)


@pytest.mark.parametrize("seed", range(30))
def test_random_arrivals_aborts_and_faults_leave_all_slots_free(seed: int) -> None:
    chance, key = random.Random(seed), 0
    engine = Engine(FakeRunner(chance.randint(1, 4)), eos_ids=(7,), prefill_chunk=chance.randint(1, 6))
    living: dict[int, Request] = {}
    got: dict[int, list[Row]] = {}
    for _ in range(300):
        act = chance.random()
        if act < 0.3:
            prompt = [chance.randrange(92) for _ in range(chance.randint(1, 20))]
            living[key] = request(key, prompt, chance.randint(1, 20), ignore_eos=chance.random() < 0.5)
            engine.add(living[key])
            key += 1
        elif act < 0.45 and living:
            gone = chance.choice(sorted(living))
            engine.abort(gone)
            del living[gone]
        else:
            for row in engine.step():
                assert row.key in living, "an aborted request was heard of again"
                got.setdefault(row.key, []).append(row)
                assert (
                    tokens_of(got[row.key]) == expected(living[row.key].prompt_ids, 20)[: len(tokens_of(got[row.key]))]
                )
                if row.finish:
                    del living[row.key]
        load = engine.load
        assert load.running + load.waiting == len(living) and load.free_slots + load.running == load.num_slots
    for gone in living:
        engine.abort(gone)
    assert idle(engine) and engine.step() == []


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 100])
def test_a_prompt_is_prefilled_in_chunks(chunk: int) -> None:
    runner, prompt = FakeRunner(), range(20)
    engine = Engine(runner, prefill_chunk=chunk)
    engine.add(request(0, prompt))
    assert tokens_of(finish(engine)[0]) == expected(prompt, 5)
    assert sum(runner.prefilled) == 20 and max(runner.prefilled) <= chunk


def test_a_long_prompt_does_not_stop_the_others() -> None:
    engine = Engine(FakeRunner(), prefill_chunk=2)
    engine.add(request(0, [1], new=10))
    engine.step()
    engine.add(request(1, range(20)))
    assert [{row.key for row in engine.step()} for _ in range(6)] == [{0}, set()] * 3


@pytest.mark.parametrize("steps", [0, 2, 6])
def test_an_abort_frees_a_request_that_waits_prefills_or_decodes(steps: int) -> None:
    engine = Engine(FakeRunner(1), prefill_chunk=4)
    engine.add(request(0, range(12), new=20))
    for _ in range(steps):
        engine.step()
    engine.abort(0)
    assert idle(engine) and finish(engine) == {}


def test_an_abort_of_an_unknown_request_is_nothing() -> None:
    engine = Engine(FakeRunner())
    engine.add(request(0, [1, 2]))
    engine.abort(5)
    assert tokens_of(finish(engine)[0]) == expected([1, 2], 5)


def test_requests_are_admitted_in_the_order_of_arrival() -> None:
    engine = Engine(FakeRunner(1))
    for key in range(4):
        engine.add(request(key, [key]))
    assert list(finish(engine)) == [0, 1, 2, 3]


def test_logits_that_are_not_finite_fail_only_their_row() -> None:
    engine = Engine(FakeRunner())
    for key, prompt in enumerate(([1, 2], [91], [5])):
        engine.add(request(key, prompt))
    rows = finish(engine)
    assert rows[1][-1].finish is FinishReason.FAILED and "not finite" in rows[1][-1].error
    assert tokens_of(rows[0]) == expected([1, 2], 5) and tokens_of(rows[2]) == expected([5], 5) and idle(engine)


def test_an_exception_in_prefill_fails_only_that_request() -> None:
    engine = Engine(FakeRunner(), prefill_chunk=2)
    for key, prompt in enumerate(([1, 2], [3, 4, 5, 90], [5])):
        engine.add(request(key, prompt))
    rows = finish(engine)
    assert rows[1] == [Row(1, finish=FinishReason.FAILED, error="RuntimeError: prefill broke")]
    assert tokens_of(rows[0]) == expected([1, 2], 5) and tokens_of(rows[2]) == expected([5], 5) and idle(engine)


def test_an_exception_in_decode_fails_who_was_in_it_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FakeRunner(2)
    engine = Engine(runner)
    engine.add(request(0, [1]))
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "decode", lambda *_: 1 / 0)
        [row] = engine.step()
    assert row.finish is FinishReason.FAILED and "ZeroDivisionError" in row.error and idle(engine)
    engine.add(request(1, [2]))
    assert tokens_of(finish(engine)[1]) == expected([2], 5)


def ending(prompt: Sequence[int], eos: tuple[int, ...] = (), new: int = 8, **stopping: Any) -> tuple[list[int], Row]:
    engine = Engine(FakeRunner(), eos)
    engine.add(request(0, prompt, new, **stopping))
    rows = finish(engine)[0]
    return tokens_of(rows), rows[-1]


def test_an_end_token_ends_and_is_not_shown() -> None:
    wanted = expected([3], 8)
    tokens, last = ending([3], eos=(wanted[4],))
    assert tokens == wanted[: wanted.index(wanted[4])]
    assert last.finish is FinishReason.STOP_TOKEN and last.stop_token_id == wanted[4]


def test_a_stop_token_ends_like_an_end_token() -> None:
    wanted = expected([3], 8)
    tokens, last = ending([3], stop_token_ids=(wanted[2],), ignore_eos=True)
    assert tokens == wanted[: wanted.index(wanted[2])] and last.finish is FinishReason.STOP_TOKEN


def test_an_ignored_end_token_is_a_token_like_any() -> None:
    wanted = expected([3], 8)
    tokens, last = ending([3], eos=tuple(wanted), ignore_eos=True)
    assert tokens == wanted and last.finish is FinishReason.LENGTH


def test_a_full_context_ends_a_request() -> None:
    prompt = range(CONTEXT - 3)
    tokens, last = ending(prompt, new=1000)
    assert tokens == expected(prompt, 4) and last.finish is FinishReason.CONTEXT_FULL


def test_a_prompt_that_fills_the_context_still_gives_a_token() -> None:
    tokens, last = ending(range(CONTEXT), new=1000)
    assert tokens == expected(range(CONTEXT), 1) and last.finish is FinishReason.CONTEXT_FULL


def test_the_clock_tells_waiting_prefill_and_decode_apart() -> None:
    ticks = iter(range(1000))
    engine = Engine(FakeRunner(1), now=lambda: float(next(ticks)))
    engine.add(request(0, [1]))
    engine.add(request(1, [2]))
    rows = finish(engine)
    first, second = rows[0][-1].timing, rows[1][-1].timing
    assert first and second and second.queue_seconds > first.queue_seconds and second.decode_seconds > 0


# --- sampling ------------------------------------------------------------------------------------------------------


def sampled(seed: int | None, beside: int, key: int = 50) -> list[int]:
    """The tokens of one sampled request with others beside it."""
    engine = Engine(FakeRunner(4))
    for other in range(beside):
        engine.add(Request(other, (other,), Sampling(temperature=1.5, seed=other), Stopping(12)))
    engine.add(Request(key, (5, 6), Sampling(temperature=2.0, seed=seed), Stopping(10)))
    return tokens_of(finish(engine)[key])


@pytest.mark.parametrize("seed", [0, 1, -5, 2**63, 2**70])
def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(seed: int) -> None:
    assert sampled(seed, 0) == sampled(seed, 3) == sampled(seed, 6)


def test_different_seeds_give_different_tokens() -> None:
    assert len({tuple(sampled(seed, 0)) for seed in range(5)}) > 1


def test_without_a_seed_requests_differ() -> None:
    assert sampled(None, 0, key=1) != sampled(None, 0, key=2)


LOGITS = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-6, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("limits", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.8}])
def test_what_is_kept_are_probabilities_largest_first(temperature: float, limits: Any) -> None:
    sampling = Sampling(temperature=temperature, **limits)
    kept, ids = filtered_probabilities(LOGITS, sampling)
    assert torch.isclose(kept.sum(), torch.tensor(1.0)) and (kept >= 0).all()
    assert (kept.diff() <= 0).all() and ids[0] == LOGITS.argmax() and len(set(ids.tolist())) == len(ids)


@pytest.mark.parametrize("count", [1, 2, 50, 51, 10**12])
def test_top_k_keeps_the_k_most_likely(count: int) -> None:
    _, ids = filtered_probabilities(LOGITS, Sampling(top_k=count))
    assert ids.tolist() == LOGITS.topk(min(count, 50)).indices.tolist()


@pytest.mark.parametrize("mass", [1e-9, 0.3, 0.9, 0.999])
def test_top_p_keeps_the_fewest_that_hold_the_mass(mass: float) -> None:
    plain = torch.softmax(LOGITS, 0)
    _, ids = filtered_probabilities(LOGITS, Sampling(top_p=mass))
    assert plain[ids].sum() >= mass and plain[ids[:-1]].sum() < mass


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_enough_beside_the_best(share: float) -> None:
    plain = torch.softmax(LOGITS, 0)
    _, ids = filtered_probabilities(LOGITS, Sampling(min_p=share))
    assert set(ids.tolist()) == set((plain >= share * plain.max()).nonzero().flatten().tolist())


def test_draws_follow_the_probabilities() -> None:
    generator, sampling = torch.Generator().manual_seed(0), Sampling(temperature=0.7, top_k=4)
    kept, ids = filtered_probabilities(LOGITS, sampling)
    counts = Counter(draw(LOGITS, sampling, generator) for _ in range(4000))
    assert set(counts) <= set(ids.tolist())
    for probability, token in zip(kept.tolist(), ids.tolist(), strict=True):
        assert abs(counts[token] / 4000 - probability) < 0.04


@pytest.mark.parametrize("logits", [torch.zeros(9), torch.tensor([0.0, float("-inf")]), torch.tensor([3e38, -3e38])])
def test_odd_logits_give_an_id(logits: Tensor) -> None:
    token = draw(logits, Sampling(temperature=0.1), torch.Generator().manual_seed(0))
    assert 0 <= token < len(logits) and logits[token] > float("-inf")
