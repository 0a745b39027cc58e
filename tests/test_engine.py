"""The engine with a fake model: everybody gets exactly their own tokens, and no block is lost."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from engine_harness import finish, idle, tokens_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from moesaic.bench.engine.storm import CONTEXT, Storm, SumRunner, blown, expected, request
from moesaic.engine.constraint import Constraint
from moesaic.engine.drawing import Drawing
from moesaic.engine.engine import Engine
from moesaic.engine.guided import Guides
from moesaic.engine.request import FinishReason, Load, Priority, Request, Row, Stopping
from moesaic.engine.sampling import Sampling
from moesaic.engine.scheduler import Scheduler
from moesaic.engine.token_rules import TokenRules


def test_an_engine_without_requests_has_nothing_to_do() -> None:
    engine = Engine(SumRunner(), num_slots=3)
    assert engine.step() == [] and not engine.has_work and engine.load == Load(3, 3, 0, 0, 30, 30)


@pytest.mark.parametrize("seed", range(20))
def test_every_request_gets_its_own_tokens_in_any_order_of_arrival(seed: int) -> None:
    chance = random.Random(seed)
    engine = Engine(
        SumRunner(chance.randint(10, 40)), num_slots=chance.randint(1, 5), step_tokens=chance.randint(1, 20)
    )
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
def test_whatever_happens_no_block_is_lost_and_tokens_are_right(seed: int) -> None:
    """The storm raises what is wrong; that it can is the next test."""
    assert blown(300, seed=1000 * seed)["what"]["steps"] > 100


def test_the_storm_notices_a_block_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_release", lambda self, sequence: setattr(sequence, "table", []))
    with pytest.raises(RuntimeError, match="holders, the ledger says"):
        blown(300)


def test_the_storm_notices_a_block_that_two_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SumRunner, "copy", lambda self, pairs: None)
    with pytest.raises(RuntimeError, match="got|lost"):
        blown(3000)


class Endings(Storm):
    """Now and then one of a request's answers is ended from outside; nothing more may come of it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.gone: set[tuple[int, int]] = set()

    def take(self, row: Row) -> None:
        assert (row.key, row.choice) not in self.gone
        super().take(row)
        if (
            row.finish is None
            and self.ended[row.key] + 1 < self.living[row.key].sampling.n
            and self.chance.random() < 0.1
        ):
            self.engine.abort(row.key, row.choice)
            self.gone.add((row.key, row.choice))
            self.ended[row.key] += 1


def test_of_an_answer_that_was_ended_nothing_more_comes_and_no_block_is_lost() -> None:
    storms = [Endings(seed) for seed in range(10)]
    for storm in storms:
        for _ in range(300):
            storm.act()
        storm.end()
    assert sum(len(storm.gone) for storm in storms) > 20


@pytest.mark.parametrize("chunk", [1, 3, 7, 20, 100])
def test_a_prompt_is_read_in_chunks(chunk: int) -> None:
    runner, prompt = SumRunner(), range(20)
    engine = Engine(runner, num_slots=1, step_tokens=chunk)
    engine.add(request(0, prompt, new=1))
    assert tokens_of(finish(engine)[0]) == expected(prompt, 1)
    assert sum(runner.read) == 20 and max(runner.read) <= max(chunk, 2)


def test_those_who_decode_get_a_token_in_every_step_beside_a_long_prompt() -> None:
    engine = Engine(SumRunner(), num_slots=2, step_tokens=4)
    engine.add(request(0, [1], new=10))
    engine.step()
    engine.add(request(1, range(20)))
    assert all(0 in {row.key for row in engine.step()} for _ in range(6))


def test_a_short_prompt_is_not_held_up_by_a_long_one() -> None:
    engine = Engine(SumRunner(), step_tokens=16)
    engine.add(request(0, range(39), new=1))
    engine.add(request(1, [1, 2]))
    assert {row.key for row in engine.step()} == {1}


@pytest.mark.parametrize("steps", [0, 2, 6])
def test_an_abort_frees_a_request_that_waits_reads_or_decodes(steps: int) -> None:
    engine = Engine(SumRunner(), num_slots=1, step_tokens=4)
    engine.add(request(0, range(12), new=20))
    for _ in range(steps):
        engine.step()
    engine.abort(0)
    assert idle(engine) and finish(engine) == {}


def test_an_abort_of_an_unknown_request_is_nothing() -> None:
    engine = Engine(SumRunner())
    engine.add(request(0, [1, 2]))
    engine.abort(5)
    assert tokens_of(finish(engine)[0]) == expected([1, 2], 5)


def test_requests_are_admitted_in_the_order_of_arrival() -> None:
    engine = Engine(SumRunner(), num_slots=1)
    for key in range(4):
        engine.add(request(key, [key]))
    assert list(finish(engine)) == [0, 1, 2, 3]


def test_logits_that_are_not_finite_fail_only_their_row() -> None:
    engine = Engine(SumRunner())
    for key, prompt in enumerate(([1, 2], [91], [5])):
        engine.add(request(key, prompt))
    rows = finish(engine)
    assert rows[1][-1].finish is FinishReason.FAILED and "not finite" in rows[1][-1].error
    assert tokens_of(rows[0]) == expected([1, 2], 5) and tokens_of(rows[2]) == expected([5], 5) and idle(engine)


@pytest.mark.parametrize("bad", range(5))
def test_an_exception_in_a_pass_fails_only_who_caused_it(bad: int) -> None:
    engine = Engine(SumRunner())
    for key in range(5):
        engine.add(request(key, [key, 90 if key == bad else 5]))
    rows = finish(engine)
    assert rows[bad] == [
        Row(bad, finish=FinishReason.FAILED, error="RuntimeError: the pass broke", timing=rows[bad][0].timing)
    ]
    assert all(tokens_of(rows[key]) == expected([key, 5], 5) for key in range(5) if key != bad) and idle(engine)


class SmallMemory(SumRunner):
    """Has memory for two spans a pass."""

    def forward(self, spans: Any) -> Any:
        if len(spans) > 2:
            raise MemoryError
        return super().forward(spans)


def test_too_little_memory_costs_a_place_and_no_answer() -> None:
    engine = Engine(SmallMemory(), num_slots=4)
    for key in range(4):
        engine.add(request(key, [key, 3]))
    rows = finish(engine)
    assert [tokens_of(rows[key]) for key in range(4)] == [expected([key, 3], 5) for key in range(4)] and idle(engine)


class NoMemory(SumRunner):
    def forward(self, spans: Any) -> Any:
        raise MemoryError("none at all")


def test_no_memory_at_all_fails_the_request_and_not_the_engine() -> None:
    engine = Engine(NoMemory())
    engine.add(request(0, [1]))
    [row] = finish(engine)[0]
    assert row.finish is FinishReason.FAILED and "none at all" in row.error and idle(engine)


@pytest.mark.parametrize("method", ["take", "uniform", "allowed"])
def test_an_exception_in_a_draw_fails_only_who_caused_it(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = getattr(Drawing, method)
    read = getattr(true, "fget", true)

    def broken(drawing: Drawing, *rest: Any) -> Any:
        if drawing.request.key == 2:
            raise MemoryError("no room to draw")
        return read(drawing, *rest)

    monkeypatch.setattr(Drawing, method, property(broken) if isinstance(true, property) else broken)
    engine, sampling = Engine(SumRunner()), Sampling(temperature=1e-3, n=2)
    rules = TokenRules(banned_token_ids=(96,))
    for key in range(5):
        engine.add(Request(key, (key, 5), sampling, Stopping(5), token_rules=rules))
    rows = finish(engine)
    assert rows[2][-1].finish is FinishReason.FAILED and "no room" in rows[2][-1].error and idle(engine)
    assert all(tokens_of(rows[key], 1) == expected([key, 5], 5) for key in range(5) if key != 2)


def test_an_exception_in_scoring_fails_only_who_caused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise MemoryError("no room to score")

    monkeypatch.setattr("moesaic.engine.engine.prompt_logprobs", broken)
    engine = Engine(SumRunner())
    engine.add(Request(0, (1, 2), Sampling(temperature=0, prompt_logprobs=1), Stopping(5)))
    engine.add(request(1, [3, 4]))
    rows = finish(engine)
    assert "no room to score" in rows[0][-1].error and tokens_of(rows[1]) == expected([3, 4], 5) and idle(engine)


class NoCopies(SumRunner):
    def copy(self, pairs: Any) -> None:
        raise MemoryError("no room for a copy")


def test_a_copy_that_fails_fails_only_whose_block_it_was() -> None:
    engine = Engine(NoCopies())
    engine.add(request(0, [1, 2, 3], n=2))
    engine.add(request(1, [3, 4]))
    rows = finish(engine)
    assert sum("room for a copy" in row.error for row in rows[0]) == 1 and idle(engine)
    assert tokens_of(rows[1]) == expected([3, 4], 5)


class NoThreads(Guides):
    def __init__(self) -> None:
        pass

    def start(self, constraint: Any) -> Any:
        if constraint:
            raise RuntimeError("can't start new thread")


def test_a_request_that_cannot_begin_fails_alone() -> None:
    engine = Engine(SumRunner(), guides=NoThreads())
    engine.add(request(0, [1], constraint=Constraint("regex", ("a",))))
    engine.add(request(1, [3, 4]))
    rows = finish(engine)
    assert rows[0] == [Row(0, finish=FinishReason.FAILED, error="RuntimeError: can't start new thread")]
    assert tokens_of(rows[1]) == expected([3, 4], 5) and idle(engine)


def test_a_tokenizer_that_forms_cannot_be_read_from_fails_their_requests_alone(tmp_path: Path) -> None:
    Tokenizer(WordLevel({"a": 0, "b": 1}, "a")).save(str(tmp_path / "tokenizer.json"))
    engine = Engine(SumRunner(), guides=Guides(tmp_path, ()))
    engine.add(request(0, [1], constraint=Constraint("regex", ("a",))))
    engine.add(request(1, [3, 4]))
    rows = finish(engine)
    assert rows[0][-1].finish is FinishReason.FAILED and "decoder" in rows[0][-1].error
    assert tokens_of(rows[1]) == expected([3, 4], 5) and idle(engine)


# --- blocks --------------------------------------------------------------------------------------------------------


def test_requests_that_outgrow_the_blocks_are_preempted_and_get_the_same_tokens() -> None:
    engine = Engine(SumRunner(num_blocks=12), num_slots=4)
    for key in range(4):
        engine.add(request(key, [key, 1, 2], new=20))
    rows = finish(engine)
    assert engine.scheduler.num_preempted > 0 and idle(engine)
    assert all(tokens_of(rows[key]) == expected([key, 1, 2], 20) for key in range(4))


def test_the_least_urgent_is_preempted() -> None:
    engine = Engine(SumRunner(num_blocks=10), num_slots=2)
    engine.add(request(0, [1], new=30, priority=Priority.LOW))
    engine.add(request(1, [2], new=30, priority=Priority.HIGH))
    rows = [row for _ in range(40) for row in engine.step()]
    assert [row.key for row in rows if row.finish][0] == 1


@pytest.mark.parametrize(("new", "n"), [(30, 2), (5, 9), (1000, 4)])
def test_what_can_never_fit_is_refused_by_name_and_harms_nobody(new: int, n: int) -> None:
    engine = Engine(SumRunner(num_blocks=10))
    engine.add(request(0, range(10), new, n=n))
    engine.add(request(1, [4]))
    rows = finish(engine)
    assert "more than the cache of 40 tokens" in rows[0][0].error and tokens_of(rows[1]) == expected([4], 5)


def test_the_second_request_reads_only_what_the_first_had_not() -> None:
    runner = SumRunner()
    engine = Engine(runner)
    engine.add(request(0, range(18), new=1))
    finish(engine)
    engine.add(request(1, [*range(18), 50], new=1))
    rows = finish(engine)[1]
    assert rows[0].cached_tokens == 16 and runner.read == [18, 3] and tokens_of(rows) == expected([*range(18), 50], 1)


def test_a_conversation_goes_on_from_its_own_answer() -> None:
    runner, prompt = SumRunner(), list(range(8))
    engine = Engine(runner)
    engine.add(request(0, prompt, new=9))
    longer = [*prompt, *tokens_of(finish(engine)[0]), 1, 2]
    engine.add(request(1, longer, new=1))
    assert finish(engine)[1][0].cached_tokens == 16


def test_one_of_several_answers_can_be_ended_alone() -> None:
    runner = SumRunner()
    engine = Engine(runner, num_slots=3)
    engine.add(request(0, [1, 2], new=10, n=3))
    while engine.load.running < 3:
        engine.step()
    engine.abort(0, 0)
    assert engine.load.free_slots == 1 and {row.choice for row in finish(engine)[0]} == {1, 2} and idle(engine)


@pytest.mark.parametrize("other", [{"salt": "other"}, {"prefill_point": 1.0}])
def test_what_another_salt_or_tier_wrote_is_not_reused(other: Any) -> None:
    engine = Engine(SumRunner())
    engine.add(request(0, range(18), new=1))
    finish(engine)
    engine.add(request(1, range(18), new=1, **other))
    assert finish(engine)[1][0].cached_tokens == 0


def test_what_a_lower_tier_computed_is_no_prefix_for_the_full_one() -> None:
    engine = Engine(SumRunner())
    engine.add(request(0, range(8), new=9, operating_point=2.0))
    tokens = tokens_of(finish(engine)[0])
    engine.add(request(1, [*range(8), *tokens, 5], new=1))
    assert finish(engine)[1][0].cached_tokens == 8


def test_kept_blocks_are_free_for_whoever_needs_them() -> None:
    engine = Engine(SumRunner(num_blocks=10))
    for key in range(5):
        engine.add(request(key, range(key, key + 30), new=5))
    rows = finish(engine)
    assert all(tokens_of(rows[key]) == expected(range(key, key + 30), 5) for key in range(5)) and idle(engine)


def test_several_answers_share_the_blocks_of_their_prompt() -> None:
    runner = SumRunner(num_blocks=13)  # five of the prompt, two for each answer
    engine = Engine(runner, num_slots=4)
    engine.add(request(0, range(22), new=6, n=4))
    rows = finish(engine)[0]
    assert [tokens_of(rows, choice) for choice in range(4)] == [expected(range(22), 6)] * 4
    assert runner.read[0] == 22 and idle(engine)


# --- tiers ---------------------------------------------------------------------------------------------------------


def points(runner: SumRunner) -> list[list[tuple[int, float]]]:
    return [[(len(span.token_ids), span.operating_point) for span in step] for step in runner.steps]


def test_a_prompt_is_read_at_full_and_a_tier_is_what_decoding_spends() -> None:
    runner = SumRunner()
    engine = Engine(runner)
    engine.add(request(0, range(5), new=3, operating_point=2.0))
    finish(engine)
    assert points(runner) == [[(5, 0.0)], [(1, 2.0)], [(1, 2.0)]]


def test_after_a_preemption_each_token_is_computed_at_its_own_tier_again() -> None:
    runner = SumRunner()
    engine = Engine(runner)
    engine.add(request(0, range(5), new=6, operating_point=2.0))
    for _ in range(4):
        engine.step()
    engine.scheduler._preempt(engine.scheduler.running[0])
    engine.scheduler.prefix.evict(engine.scheduler.ledger.total)
    tokens = tokens_of(finish(engine)[0])
    assert points(runner)[4:7] == [[(5, 0.0)], [(3, 2.0)], [(1, 2.0)]] and tokens == expected(range(5), 6)[4:]


def test_a_prompt_is_scored_once_whatever_becomes_of_its_blocks() -> None:
    engine, prompt = Engine(SumRunner(), step_tokens=16), tuple(range(3, 23))
    engine.add(Request(0, prompt, Sampling(temperature=0, prompt_logprobs=1), Stopping(3)))
    engine.step()
    engine.scheduler._preempt(engine.scheduler.running[0])
    rows = finish(engine)[0]
    told = [each for row in rows for each in row.prompt_logprobs]
    assert [each.token_id for each in told] == list(prompt[1:])
    assert [each.top[0][0] for each in told] == [expected(prompt[: i + 1], 1)[0] for i in range(19)]


def test_under_load_a_request_is_lowered_step_by_step_to_its_floor_and_no_further() -> None:
    runner = SumRunner(num_blocks=60)
    engine = Engine(runner, num_slots=2)
    engine.add(request(0, [1], new=38, floor=1.5))
    engine.add(request(1, [2], new=38))
    for key in range(2, 9):
        engine.add(request(key, [3]))
    finish(engine)
    lowered = [point for step in points(runner) for _, point in step if point > 0]
    assert lowered[0] == 0.5 and max(lowered) == 1.5 and sorted(set(lowered)) == [0.5, 1.0, 1.5]
    assert all(min(point for _, point in step) == 0 for step in points(runner))


# --- who is next ---------------------------------------------------------------------------------------------------


def test_callers_take_turns_however_many_requests_one_of_them_has() -> None:
    engine = Engine(SumRunner(), num_slots=1)
    for key in range(8):
        engine.add(request(key, [1], new=30, caller="greedy"))
    engine.add(request(8, [1], new=30, caller="modest"))
    ended = [row.key for rows in finish(engine).values() for row in rows if row.finish]
    assert ended.index(8) <= 2


def test_a_higher_priority_goes_first() -> None:
    engine = Engine(SumRunner(), num_slots=1)
    for key, priority in enumerate((Priority.LOW, Priority.NORMAL, Priority.HIGH)):
        engine.add(request(key, [1], priority=priority))
    assert list(finish(engine)) == [2, 1, 0]


def test_a_request_whose_time_is_over_costs_nothing() -> None:
    runner, clock = SumRunner(), [0.0]
    engine = Engine(runner, num_slots=1, now=lambda: clock[0])
    engine.add(request(0, [1], new=3))
    engine.add(request(1, [2], deadline_seconds=2.0))
    engine.step()
    clock[0] = 2.0
    rows = finish(engine)
    assert [row.finish for row in rows[1]] == [FinishReason.EXPIRED] and all(len(step) == 1 for step in runner.steps)


def test_who_has_a_first_token_is_not_late_when_it_waits_again() -> None:
    clock = [0.0]
    engine = Engine(SumRunner(), num_slots=1, now=lambda: clock[0])
    engine.add(request(0, [1], deadline_seconds=2.0))
    told = [*engine.step(), *engine.step()]
    engine.scheduler._preempt(engine.scheduler.running[0])
    clock[0] = 3.0
    assert tokens_of([*told, *finish(engine)[0]]) == expected([1], 5)


@pytest.mark.parametrize("jump", [-1e9, 1e9, 0.0])
def test_a_clock_that_jumps_changes_no_token(jump: float) -> None:
    clock = iter([0.0, 1.0, 2.0, *[2.0 + jump] * 1000])
    engine = Engine(SumRunner(), now=lambda: next(clock))
    for key in range(3):
        engine.add(request(key, range(key, key + 9)))
    rows = finish(engine)
    assert all(tokens_of(rows[key]) == expected(range(key, key + 9), 5) for key in range(3))


# --- ends ----------------------------------------------------------------------------------------------------------


def ending(prompt: Sequence[int], eos: tuple[int, ...] = (), new: int = 8, **stopping: Any) -> tuple[list[int], Row]:
    engine = Engine(SumRunner(), eos)
    engine.add(request(0, prompt, new, stopping))
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


def test_a_prompt_that_fills_the_context_needs_no_block_behind_it() -> None:
    engine = Engine(SumRunner(CONTEXT // SumRunner.block_tokens))
    engine.add(request(0, [1] * CONTEXT, 1))
    assert tokens_of(finish(engine)[0]) == expected([1] * CONTEXT, 1) and idle(engine)


def test_the_clock_tells_waiting_prefill_and_decode_apart() -> None:
    ticks = iter(range(1000))
    engine = Engine(SumRunner(), num_slots=1, now=lambda: float(next(ticks)))
    engine.add(request(0, [1]))
    engine.add(request(1, [2]))
    rows = finish(engine)
    first, second = rows[0][-1].timing, rows[1][-1].timing
    assert first and second and second.queue_seconds > first.queue_seconds and second.decode_seconds > 0


# --- sampling ------------------------------------------------------------------------------------------------------


def sampled(seed: int | None, beside: int, key: int = 50) -> list[int]:
    """The tokens of one sampled request with others beside it."""
    engine = Engine(SumRunner(40), num_slots=4)
    for other in range(beside):
        engine.add(Request(other, (other,), Sampling(temperature=1.5, seed=other), Stopping(12)))
    engine.add(Request(key, (5, 6), Sampling(temperature=2.0, seed=seed), Stopping(10)))
    tokens: list[int] = tokens_of(finish(engine)[key])
    return tokens


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_a_seed_gives_the_same_tokens_alone_and_in_a_batch(seed: int) -> None:
    assert sampled(seed, 0) == sampled(seed, 3) == sampled(seed, 6)


def test_different_seeds_give_different_tokens() -> None:
    assert len({tuple(sampled(seed, 0)) for seed in range(5)}) > 1


def test_without_a_seed_requests_differ() -> None:
    assert sampled(None, 0, key=1) != sampled(None, 0, key=2)
