"""Continuous batching: requests join and leave between steps. Token ids only.

A step computes the next token of every request that decodes and, with what is left of its budget, parts of the prompts
of those that begin: scheduler.py says which, runner.py computes them, sampler.py draws.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from ..models.seeds import folded
from .beams import BeamSearch, Found
from .drawing import Drawing
from .form import Forms
from .guided import Guides
from .isolation import Done, Outcome, apart, copied, drawn_apart, offered_apart, span_of, told
from .logprobs import distributions, prompt_logprobs
from .own_rules import OwnRules
from .request import FinishReason, Load, Request, Row, TokenLogprobs
from .runner import Runner
from .sampler import NO_TOKEN, Drawn
from .scheduler import Plan, Scheduler, Work
from .sequence import Sequence as Answer

_log = logging.getLogger(__name__)
_COMPILING_SECONDS = 0.001
STEP_TOKENS = 512  # of a step, at most, unless more requests decode


class Engine:
    """Turns requests into rows of new tokens, step by step. One bad request never harms another."""

    def __init__(
        self,
        runner: Runner,
        eos_ids: tuple[int, ...] = (),
        seed: int = 0,
        num_slots: int = 8,
        step_tokens: int = STEP_TOKENS,
        now: Callable[[], float] = time.monotonic,
        watched: Callable[[], AbstractContextManager[None]] = nullcontext,
        forms: Forms | None = None,
        guides: Guides | None = None,
        own: OwnRules = OwnRules(),  # noqa: B008  # frozen
    ) -> None:
        """watched: entered around each forward pass, by whoever wants to know how long it takes.

        forms: for the steps in which all rows decode and are drawn plainly; by default every step has its own size.
        guides: for requests with a constraint; without them nobody may bring one.
        own: what the model says of all its answers; with a beginning of its decoder, prompts are sources.
        """
        self._runner, self._watched, self._now, self._forms = runner, watched, now, forms
        self._guides, self._own = guides, own
        self._eos_ids, self._seed = frozenset(eos_ids), seed
        self._refused: list[Row] = []  # to be told with the next step
        self.scheduler = Scheduler(
            runner.num_blocks, runner.block_tokens, runner.max_context, num_slots, max(step_tokens, 2 * num_slots)
        )

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.running or self._refused) or len(self.scheduler.waiting) > 0

    @property
    def load(self) -> Load:
        scheduler = self.scheduler
        taken = scheduler.slots_taken
        return Load(
            scheduler.num_slots, scheduler.num_slots - taken, len(scheduler.running), len(scheduler.waiting),
            scheduler.ledger.total, scheduler.free_blocks,
        )  # fmt: skip

    def add(self, request: Request) -> None:
        """Puts a request behind the waiting ones."""
        arrived = self._now() if request.arrived_seconds is None else request.arrived_seconds
        start = self._own.start_id
        ids, source = ([*request.prompt_ids], ()) if start is None else ([start], request.prompt_ids)
        try:
            drawing = self._drawing(request, 0)
        except Exception as error:  # a thread that compiles a grammar may not be there to be had
            self._refused.append(Row(request.key, finish=FinishReason.FAILED, error=told(error)))
            return
        sampling = request.sampling
        answers = max(sampling.n, sampling.num_beams)
        answer = Answer(request, drawing, arrived, num_answers=answers, ids=ids, source=source)
        if sampling.num_beams > 1:
            answer.search = BeamSearch(request, answer, drawing.ends)
        if self.scheduler.fits(answer):
            self.scheduler.waiting.push(answer)
        else:
            self._refused.append(self._too_large(answer))

    def abort(self, key: int, choice: int | None = None) -> None:
        """Forgets a request, or one of its answers once it has begun, and frees what that holds; an unknown one is
        nothing to do.
        """
        self.scheduler.abort(key, choice)
        self._refused = [row for row in self._refused if row.key != key]

    def step(self) -> list[Row]:
        """Computes one step and tells what came of it: new tokens, ends, failures."""
        rows, self._refused = self._refused, []
        plan = self.scheduler.plan(self._now())
        rows += [self._row(answer, finish=FinishReason.EXPIRED) for answer in plan.expired]
        if not plan.work:
            if self.has_work:
                time.sleep(_COMPILING_SECONDS)  # of a grammar: nobody else has anything to do
            return rows
        began = self._now()
        outcome = self._computed(plan)
        self._learn(plan.work, self._now() - began)
        rows += self._accepted(outcome.drawn)
        for work, error in outcome.failed:
            rows += self._failed(work.sequence, told(error))
        rows += self._drawn(outcome.done)
        if outcome.out_of_memory:
            self.scheduler.make_room()
        return rows

    def _too_large(self, answer: Answer) -> Row:
        """Why no engine of this size could ever run it."""
        total, new = self.scheduler.ledger.total * self._runner.block_tokens, answer.request.stopping.max_new_tokens
        error = (
            f"a prompt of {len(answer.request.prompt_ids)} tokens and {answer.num_answers} times {new} new ones "
            f"are more than the cache of {total} tokens, or than {self.scheduler.num_slots} answers at a time; "
            "ask for less, or raise kv_memory or num_slots"
        )
        return self._row(answer, finish=FinishReason.FAILED, error=error)

    def _computed(self, plan: Plan) -> Outcome:
        failed, work = copied(self._runner, plan)
        if not work:
            return Outcome(failed=failed)
        with self._watched():
            outcome = self._in_form(work) or apart(self._runner, work)
        outcome.failed += failed
        return outcome

    def _in_form(self, work: Sequence[Work]) -> Outcome | None:
        """A step of fixed size, tokens and all; None where this is none, or where it failed and is to be repeated."""
        drawings = [each.sequence.drawing for each in work]
        plain = all(each.sequence.decodes and each.sequence.drawing.is_plain for each in work)
        if self._forms is None or not plain:
            return None
        try:
            found = self._forms.step(
                [span_of(each) for each in work],
                [drawing.request.sampling.temperature for drawing in drawings],
                [drawing.uniform for drawing in drawings],
            )
        except Exception:
            _log.exception("a step of fixed size failed and is repeated without one")
            return None
        return Outcome(drawn=list(zip(work, found, strict=True)))

    def _learn(self, work: Sequence[Work], seconds: float) -> None:
        rows = sum(each.sequence.decodes for each in work)
        reading = sum(each.count + len(each.sequence.unread) for each in work if not each.sequence.decodes)
        self.scheduler.pace.learn(rows, reading, seconds)

    def _drawn(self, done: Sequence[Done]) -> list[Row]:
        """The rows of all whose tokens are computed, with a token for each that is ready for one."""
        ready: list[tuple[Answer, Done]] = []
        rows: list[Row] = []
        for each in done:
            last = each.work.last
            try:
                self._score(each)
            except Exception as error:
                rows += self._failed(each.work.sequence, told(error))
                continue
            self.scheduler.done(each.work)
            if last and each.work.sequence.search is None:
                ready += [(answer, each) for answer in (each.work.sequence, *self._forks(each.work.sequence))]
        drawn = drawn_apart([(answer.drawing, each) for answer, each in ready])
        for (answer, _), token in zip(ready, drawn, strict=True):
            rows += self._advanced(answer, token)
        return rows + self._searched(
            [each for each in done if each.work.sequence.search and not each.work.sequence.pending]
        )

    def _accepted(self, drawn: Sequence[tuple[Work, Drawn]]) -> list[Row]:
        """The rows of a step that has drawn its tokens itself."""
        for work, _ in drawn:
            self.scheduler.done(work)
        return [row for work, token in drawn for row in self._advanced(work.sequence, token)]

    @staticmethod
    def _score(done: Done) -> None:
        """Notes the log probabilities of a prompt's tokens, where they were asked for; none twice."""
        answer = done.work.sequence
        if answer.scores_prompt:
            known = max(0, answer.num_scored - answer.num_cached)  # of these, from before a preemption
            begin = answer.num_cached + 1
            next_ids = answer.ids[begin : min(begin + done.work.count, answer.num_prompt)][known:]
            logits, count = done.logits[known : known + len(next_ids)], answer.request.sampling.prompt_logprobs or 0
            answer.prompt_logprobs += prompt_logprobs(logits, next_ids, count) if next_ids else []
            first = begin + known
            wanted = [at - first for at in answer.request.distributions_at if 0 <= at - first < len(next_ids)]
            answer.distributions += distributions(logits, wanted)
            answer.num_scored += len(next_ids)

    def _forks(self, answer: Answer) -> list[Answer]:
        """The other answers to a prompt that has just been read."""
        forks = []
        for choice in range(1, answer.num_answers):
            fork = answer.fork(choice, self._drawing(answer.request, choice))
            self.scheduler.fork(answer, fork)
            forks.append(fork)
        return forks

    def _searched(self, done: Sequence[Done]) -> list[Row]:
        """The rows of searches that came to their end, once all beams of each have offered their next tokens."""
        for each in done:
            if each.shares is not None:
                each.work.sequence.spend(each.shares.tolist())
        offers, failed = offered_apart(done)
        rows = [row for answer, error in failed for row in self._failed(answer, error)]
        for answer, tokens in offers:
            search = answer.search
            if search is not None and not search.is_over:
                answer.decoding_since = answer.decoding_since or self._now()
                search.offer(answer, tokens)
                rows += self._next_beams(answer, search) if search.is_ready else []
        return rows

    def _next_beams(self, answer: Answer, search: BeamSearch[Answer]) -> list[Row]:
        """Lets the best beams go on, each by its own token, and ends the others; or tells what was found."""
        found = search.best({key: beam.new_ids for key, (beam, _) in search.beams.items()})
        if not found:
            self.scheduler.remove_search(search)
            rows = [self._found(answer, choice, each) for choice, each in enumerate(search.answers)]
            missing = range(len(rows), answer.request.sampling.n)  # where rules leave fewer answers than were asked for
            refused = self._row(answer, finish=FinishReason.REFUSED, error=NO_TOKEN)
            return rows + [replace(refused, choice=choice) for choice in missing]
        before = [beam for beam, _ in search.beams.values()]
        beams = self.scheduler.branch(before, [each.beam for each in found], answer.request.sampling.num_beams)
        for beam, each in zip(beams, found, strict=True):
            if beam is not each.beam:
                beam.drawing = self._drawing(beam.request, 0)
                for token in beam.new_ids:
                    beam.drawing.take(token)
            beam.ids.append(each.token)
            beam.drawing.take(each.token)
        search.go_on([(beam, each.total) for beam, each in zip(beams, found, strict=True)])
        return []

    def _found(self, answer: Answer, choice: int, found: Found) -> Row:
        """An answer of a search, whole."""
        why = FinishReason.LENGTH if found.end is None else FinishReason.STOP_TOKEN
        row = self._row(answer, found.ids, why, stop_token=found.end)
        return replace(row, choice=choice)

    def _advanced(self, answer: Answer, drawn: Drawn) -> list[Row]:
        """Appends the next token and ends the answer where it must end."""
        if drawn.error:
            return self._failed(answer, drawn.error, FinishReason.REFUSED if drawn.refused else FinishReason.FAILED)
        if drawn.beside:
            answer.spend(drawn.beside)
        request, token = answer.request, drawn.token
        if answer.decoding_since is None:
            answer.decoding_since = self._now()
        if token in request.stopping.stop_token_ids or (token in self._eos_ids and not request.stopping.ignore_eos):
            return [self._finished(answer, (), FinishReason.STOP_TOKEN, stop_token=token)]
        answer.ids.append(token)
        try:
            answer.drawing.take(token)
        except Exception as error:
            return self._failed(answer, told(error))
        if answer.num_new >= request.stopping.max_new_tokens:
            return [self._finished(answer, (token,), FinishReason.LENGTH, drawn=drawn)]
        if answer.num_cached >= self._runner.max_context:
            return [self._finished(answer, (token,), FinishReason.CONTEXT_FULL, drawn=drawn)]
        return [self._row(answer, (token,), timed=answer.num_new == 1, drawn=drawn)]

    def _finished(self, answer: Answer, tokens: tuple[int, ...], why: FinishReason, **more: Any) -> Row:
        row = self._row(answer, tokens, why, **more)
        self.scheduler.finish(answer)
        return row

    def _failed(self, answer: Answer, error: str, why: FinishReason = FinishReason.FAILED) -> list[Row]:
        """The row of an answer that fails, and with it of all that is searched for beside it; told once."""
        if answer.search is None:
            self.scheduler.remove(answer)
        elif answer.search.is_over:
            return []
        else:
            answer.search.is_over = True
            self.scheduler.remove_search(answer.search)
        return [self._row(answer, finish=why, error=error)]

    def _row(
        self,
        answer: Answer,
        tokens: tuple[int, ...] = (),
        finish: FinishReason | None = None,
        stop_token: int | None = None,
        error: str = "",
        timed: bool = False,
        drawn: Drawn | None = None,
    ) -> Row:
        """What is told of one answer; log probabilities of its prompt once, with whatever comes first."""
        told, answer.prompt_logprobs = tuple(answer.prompt_logprobs), []
        whole, answer.distributions = tuple(answer.distributions), []
        return Row(
            answer.request.key, tokens, finish, stop_token, error,
            timing=answer.timing(self._now()) if timed or finish else None,
            shares=answer.shares, choice=answer.choice, cached_tokens=answer.num_reused,
            logprobs=_logprobs(drawn), prompt_logprobs=told, operating_point=answer.lowered_point,
            distributions=whole,
        )  # fmt: skip

    def _drawing(self, request: Request, choice: int) -> Drawing:
        guide = self._guides.start(request.constraint) if self._guides else None
        return Drawing(request, choice, folded(self._seed, request.key), self._eos_ids, guide, self._own)


def _logprobs(drawn: Drawn | None) -> tuple[TokenLogprobs, ...]:
    if drawn is None or drawn.logprob is None:
        return ()
    return (TokenLogprobs(drawn.token, drawn.logprob, drawn.top),)
