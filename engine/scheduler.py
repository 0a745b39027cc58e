"""Which tokens of which requests a step computes, and in which blocks. Token ids and numbers: no text, no torch.

Every request that decodes gets its next token; what is left of the step's budget reads prompts, several at a time.
A request that finds no block takes one from the prefix cache, or from the running request that began last, which then
waits and is computed again.
"""

from collections import abc
from dataclasses import dataclass, field

from .beams import BeamSearch
from .blocks import BlockLedger
from .pace import Pace
from .prefix import Origin, PrefixCache
from .pressure import Pressure
from .queue import FairQueue
from .request import Limits
from .sequence import Sequence

_SCORED_TOKENS = 64  # of a prompt in a step: each has logits for the whole vocabulary
_CALM_STEPS = 64  # with memory enough, before one more may run


@dataclass(frozen=True, slots=True)
class Work:
    """What one sequence does in a step: `count` of its pending tokens at this operating point."""

    sequence: Sequence
    count: int
    operating_point: float

    @property
    def last(self) -> bool:
        """Whether the next token can be drawn after it."""
        return self.count == self.sequence.pending


@dataclass(slots=True)
class Plan:
    """A step. copies: pairs of blocks; the second becomes the same as the first before anything is computed.

    expired: waiting requests whose time is over, or would be before their first token.
    """

    work: list[Work] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    expired: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Owns the waiting and the running requests and all blocks. Who is in `running` holds the blocks of its table."""

    def __init__(self, num_blocks: int, block_tokens: int, max_context: int, num_slots: int, step_tokens: int) -> None:
        self.ledger = BlockLedger(num_blocks)
        self.prefix = PrefixCache(self.ledger, block_tokens)
        self.waiting, self.running = FairQueue[Sequence](), list[Sequence]()
        self.num_slots, self.pace, self.pressure = num_slots, Pace(), Pressure()
        self.num_preempted = 0
        self._most_running, self._calm_steps = num_slots, 0
        self._compiling: list[Sequence] = []  # looked at in this step, and not ready
        self._block_tokens, self._step_tokens = block_tokens, step_tokens
        self._limits = Limits(0, max_context, num_slots, num_blocks * block_tokens, block_tokens)

    @property
    def slots_taken(self) -> int:
        return sum(sequence.num_answers for sequence in self.running)

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return self.ledger.free + self.prefix.evictable

    def fits(self, sequence: Sequence) -> bool:
        """Whether the request can run at all, alone."""
        new = sequence.request.stopping.max_new_tokens
        answers = sequence.num_answers
        if sequence.search is not None:  # whose beams share nothing once they are computed again
            blocks = answers * (self._limits.blocks(sequence.num_prompt, new, 1) + self._source_blocks(sequence))
        else:
            blocks = self._limits.blocks(sequence.num_prompt, new, answers) + self._source_blocks(sequence)
        return blocks <= self.ledger.total and sequence.num_answers <= self.num_slots

    def plan(self, now: float) -> Plan:
        """The next step. What it will write has its blocks; it may be empty where everybody waits for nobody."""
        plan = Plan(expired=self._expire(now))
        self._note_pressure()
        self._calm_steps += 1
        if self._calm_steps % _CALM_STEPS == 0:
            self._most_running = min(self._most_running + 1, self.num_slots)
        for sequence in [each for each in self.running if each.decodes]:
            if sequence in self.running and self._provide(sequence, 1, plan):
                plan.work.append(self._work(sequence, 1))
        plan.work = [work for work in plan.work if work.sequence in self.running]  # some gave up their blocks
        self._read(plan, now)
        if not plan.work and self.running:
            self._preempt(self._victim())  # all hold blocks, and nobody can go on
            again = self.plan(now)
            again.expired = [*plan.expired, *again.expired]
            return again
        plan.work.sort(key=lambda work: work.operating_point > 0)
        return plan

    def done(self, work: Work) -> None:
        """The tokens of this work are in their blocks."""
        sequence, prompt = work.sequence, work.sequence.num_prompt
        begins, sequence.num_cached = sequence.num_cached < prompt, sequence.num_cached + work.count
        sequence.source_read = True
        sequence.points += [work.operating_point] * (sequence.num_cached - prompt - len(sequence.points))
        if begins and sequence.num_cached >= prompt:
            self._keep(sequence, prompt)

    def fork(self, sequence: Sequence, other: Sequence) -> None:
        """Lets another answer run over the blocks of the first, which no longer keeps a slot for it."""
        sequence.num_answers -= 1
        self.ledger.share([*other.table, *other.source_table])
        self.running.append(other)

    def branch(self, before: abc.Sequence[Sequence], kept: abc.Sequence[Sequence], slots: int) -> list[Sequence]:
        """The beams that go on, in the order of `kept`, which names one more than once where it goes on in several
        ways; those of `before` that it does not name end. Together they keep `slots` slots.
        """
        seen, beams = set[int](), list[Sequence]()
        for beam in kept:
            if id(beam) in seen:
                beam, again = beam.fork(beam.choice, beam.drawing), beam
                self.fork(again, beam)
            seen.add(id(beam))
            beams.append(beam)
        for beam in before:
            if id(beam) not in seen:
                self.remove(beam)
        for place, beam in enumerate(beams):
            beam.num_answers = 1 if place else slots - len(beams) + 1
        return beams

    def remove_search(self, search: BeamSearch[Sequence]) -> None:
        """Ends all beams of a search, those that wait to be computed again too."""
        self.waiting.remove(lambda sequence: sequence.search is search)
        for sequence in [each for each in self.running if each.search is search]:
            self.remove(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Ends one that has its answer. What was computed as a prompt would be is kept for whoever goes on from it."""
        if all(point == sequence.request.prefill_point for point in sequence.points):
            self._keep(sequence, sequence.num_cached)
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Ends one that runs; its blocks are free, or the prefix cache's."""
        self.running.remove(sequence)
        self._release(sequence)

    def abort(self, key: int, choice: int | None = None) -> None:
        """Forgets a request with all its answers, or one of them; an unknown one is nothing to do."""

        def meant(sequence: Sequence) -> bool:
            return sequence.request.key == key and choice in (None, sequence.choice)

        self.waiting.remove(meant)
        for sequence in [each for each in self.running if meant(each)]:
            self.remove(sequence)

    def make_room(self) -> None:
        """Lets half as many run and keeps nothing for later, after a step that found too little memory."""
        self._most_running, self._calm_steps = max(1, len(self.running) // 2), 0
        self.prefix.evict(self.ledger.total)
        while len(self.running) > self._most_running:
            self._preempt(self._victim())

    def differences(self) -> list[str]:
        """What differs between the ledger and the real holders: nothing, unless a block was lost."""
        tables = [table for each in self.running for table in (each.table, each.source_table)]
        held = [*tables, *([block] for block in self.prefix.blocks)]
        return self.ledger.differences(held)

    def _note_pressure(self) -> None:
        floors = [each.request.floor for each in self.running if each.request.floor is not None]
        self.pressure.note(len(self.waiting), max(floors, default=0.0))

    def _expire(self, now: float) -> list[Sequence]:
        """Takes out those that wait and can no longer be in time."""

        def late(sequence: Sequence) -> bool:
            deadline = sequence.request.deadline_seconds
            if deadline is None or sequence.num_new:
                return False
            rows = min(len(self.running), self.num_slots - 1)
            return now + self.pace.first_token_seconds(sequence.pending + len(sequence.unread), rows) >= deadline

        return self.waiting.remove(late)

    def _read(self, plan: Plan, now: float) -> None:
        """Shares the budget among all that read: the shortest are not held up by the longest."""
        budget = self.pace.allowance(len(plan.work), self._step_tokens - len(plan.work))
        while self._admit(now):
            pass
        while self._compiling:
            self.waiting.push_front(self._compiling.pop())
        pending = [each for each in self.running if each.pending and not each.decodes]
        reading = sorted(pending, key=lambda each: each.pending + len(each.unread))
        reads_source = False
        for i, sequence in enumerate(reading):
            source = len(sequence.unread)
            if reads_source and source > budget:  # which is read at once or not at all; one is read in any case
                continue
            share = max(budget // (len(reading) - i), min(budget, 1))
            count = min(self._run_length(sequence), share)
            if count and self._provide(sequence, count, plan, preempt=False):
                plan.work.append(self._work(sequence, count))
                budget, reads_source = max(0, budget - count - source), reads_source or source > 0

    def _admit(self, now: float) -> bool:
        """Lets the next one run, where there are a slot and the blocks for all that is to be computed."""
        most = min(self.num_slots, self._most_running)
        sequence = self.waiting.pop() if self.slots_taken < most else None
        if sequence is None:
            return False
        if not sequence.drawing.is_ready:  # its place is kept, and those behind it go first
            self._compiling.append(sequence)
            return True
        group = [sequence, *self._beside(sequence)]
        found = [self._reusable(each) for each in group]
        pairs = list(zip(group, found, strict=True))
        missing = sum(
            self._blocks(len(each.ids) + 1) - len(blocks) + self._source_blocks(each) for each, blocks in pairs
        )
        promised = sum(max(0, self._blocks(len(each.ids) + 1) - len(each.table)) for each in self.running)
        slots = self.slots_taken + sum(each.num_answers for each in group)
        if slots > self.num_slots or missing + promised > self.free_blocks:
            for each, blocks in reversed(pairs):
                self.ledger.give(blocks)
                self.waiting.push_front(each)
            return False
        for each, blocks in pairs:
            self._begin(each, blocks, now)
        return True

    def _beside(self, sequence: Sequence) -> list[Sequence]:
        """The other beams of its search that wait: a search runs whole or not at all, else two could wait for each
        other's blocks for ever.
        """
        search = sequence.search
        return self.waiting.remove(lambda each: each.search is search) if search is not None else []

    def _begin(self, sequence: Sequence, found: list[int], now: float) -> None:
        """Lets one run over the blocks that hold its beginning already."""
        sequence.table, sequence.num_cached = found, len(found) * self._block_tokens
        source = self._source_blocks(sequence)
        self.prefix.evict(source - self.ledger.free)
        sequence.source_table = self.ledger.take(source)
        if sequence.admitted is None:
            sequence.admitted, sequence.num_reused = now, sequence.num_cached
        self.running.append(sequence)

    def _reusable(self, sequence: Sequence) -> list[int]:
        """Blocks of the prefix cache; none where every token of the prompt is to be scored, or where keys and values
        depend on a source.
        """
        if sequence.scores_prompt or sequence.source:
            return []
        return self.prefix.find(sequence.request.prompt_ids, _origin(sequence))

    def _keep(self, sequence: Sequence, tokens: int) -> None:
        if not sequence.source and not sequence.request.num_full:
            self.prefix.keep(sequence.ids[:tokens], _origin(sequence), sequence.table)

    def _run_length(self, sequence: Sequence) -> int:
        """How many of the pending tokens are computed at one operating point."""
        done, prompt = sequence.num_cached, sequence.num_prompt
        if done < prompt:
            full = sequence.request.num_full
            left = (full if done < full else prompt) - done
            return min(left, _SCORED_TOKENS) if sequence.scores_prompt else left
        known = sequence.points[done - prompt :]
        return next((i for i, point in enumerate(known) if point != known[0]), len(known)) or sequence.pending

    def _work(self, sequence: Sequence, count: int) -> Work:
        request, done = sequence.request, sequence.num_cached
        if done < sequence.num_prompt:
            return Work(sequence, count, 0.0 if done < request.num_full else request.prefill_point)
        known = sequence.points[done - sequence.num_prompt :]
        point = known[0] if known else self.pressure.lowered(request.operating_point, request.floor)
        return Work(sequence, count, point)

    def _provide(self, sequence: Sequence, count: int, plan: Plan, preempt: bool = True) -> bool:
        """Sees to it that the next tokens have blocks that are nobody else's; False where there are none.

        The sequence itself may be the one that is preempted.
        """
        begin = sequence.num_cached // self._block_tokens
        shared = [i for i in range(begin, len(sequence.table)) if self.ledger.holders(sequence.table[i]) > 1]
        missing = max(0, self._blocks(sequence.num_cached + count) - len(sequence.table))
        while self.ledger.free < len(shared) + missing:
            if self.prefix.evict(len(shared) + missing - self.ledger.free):
                continue
            if not preempt:
                return False
            victim = self._victim()
            self._preempt(victim)
            if sequence not in self.running:
                return False
            shared = [i for i in shared if self.ledger.holders(sequence.table[i]) > 1]
        for i in shared:
            (own,) = self.ledger.take(1)
            plan.copies.append((sequence.table[i], own))
            self.ledger.give([sequence.table[i]])
            sequence.table[i] = own
        sequence.table += self.ledger.take(missing)
        return True

    def _victim(self) -> Sequence:
        """The least urgent of those that run; among equals the one that began last."""
        order = list(type(self.running[0].request.priority))
        return max(self.running, key=lambda each: (order.index(each.request.priority), self.running.index(each)))

    def _preempt(self, sequence: Sequence) -> None:
        """Lets one wait, and with it all beams of its search."""
        search = sequence.search
        for each in [each for each in self.running if each is sequence or (search and each.search is search)]:
            self.running.remove(each)
            self._release(each)
            if search is not None:
                search.withdraw(each)
            self.waiting.push_front(each)
        self.num_preempted += 1

    def _release(self, sequence: Sequence) -> None:
        self.ledger.give([*sequence.table, *sequence.source_table])
        sequence.table, sequence.num_cached = [], 0
        sequence.source_table, sequence.source_read = [], False

    def _source_blocks(self, sequence: Sequence) -> int:
        return -(-len(sequence.source) // self._block_tokens)

    def _blocks(self, tokens: int) -> int:
        return -(-min(tokens, self._limits.max_context) // self._block_tokens)


def _origin(sequence: Sequence) -> Origin:
    return Origin(sequence.request.salt, sequence.request.prefill_point)
