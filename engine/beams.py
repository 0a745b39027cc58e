"""Beam search as `transformers` has it: the likeliest answers of several that are made side by side. No torch.

In each step every beam offers its likeliest next tokens. Of all offers those that end an answer are kept among the best
ones, if they rank high enough, and the best of the others are the next beams. An answer's score is the sum of its
tokens' log probabilities by the power `length_penalty` of their number.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .request import Request

WHILE_BETTER, AT_ONCE, NEVER = 0, 1, 2  # early_stopping: False, True and "never" of transformers
Beam = TypeVar("Beam")


@dataclass(frozen=True, slots=True)
class Next(Generic[Beam]):
    """A beam with one more token: the sum of the log probabilities of all its tokens."""

    beam: Beam
    token: int
    total: float


@dataclass(frozen=True, slots=True)
class Found:
    """An answer. end: the token that ended it, which is not among its ids; None where no more might come."""

    score: float
    ids: tuple[int, ...]
    end: int | None


class BeamSearch(Generic[Beam]):
    """The search for the answers to one request. A beam is whatever the caller takes for one."""

    def __init__(self, request: Request, first: Beam, end_ids: Collection[int]) -> None:
        self._sampling, self._most = request.sampling, request.stopping.max_new_tokens
        self._ends = frozenset(end_ids)
        self.beams: dict[int, tuple[Beam, float]] = {id(first): (first, 0.0)}  # the best first
        self._offers: dict[int, list[Next[Beam]]] = {}
        self._found: list[Found] = []  # the best first
        self.is_over = False

    @property
    def num_offers(self) -> int:
        """How many tokens each beam offers, so that enough are left when all the best end their answers."""
        return max(2, 1 + len(self._ends)) * self._sampling.num_beams

    @property
    def is_ready(self) -> bool:
        """Whether all beams have offered."""
        return len(self._offers) == len(self.beams)

    @property
    def answers(self) -> list[Found]:
        """As many of the best answers as were asked for."""
        return self._found[: self._sampling.n]

    def offer(self, beam: Beam, tokens: Sequence[tuple[int, float]]) -> None:
        """Takes what may come next in a beam, with log probabilities."""
        total = self.beams[id(beam)][1]
        self._offers[id(beam)] = [Next(beam, token, total + logprob) for token, logprob in tokens]

    def withdraw(self, beam: Beam) -> None:
        """Forgets what a beam offered, since it is to be computed again."""
        self._offers.pop(id(beam), None)

    def best(self, new_ids: Mapping[int, tuple[int, ...]]) -> list[Next[Beam]]:
        """The next beams, the best first; none once the search is over. new_ids: of each beam, by its identity."""
        offers = [each for key in self.beams for each in self._offers[key]]
        ranked = sorted(offers, key=lambda each: -each.total)[: self.num_offers]
        self._offers = {}
        length = 1 + max(len(ids) for ids in new_ids.values())
        is_last = length >= self._most
        ended = [each for each in ranked[: self._sampling.num_beams] if is_last or each.token in self._ends]
        self._keep([self._as_found(each, new_ids[id(each.beam)], length) for each in ended])
        going_on = [each for each in ranked if not is_last and each.token not in self._ends]
        going_on = going_on[: self._sampling.num_beams]
        self.is_over = not going_on or self._is_over(going_on[0].total, length)
        return [] if self.is_over else going_on

    def go_on(self, beams: Sequence[tuple[Beam, float]]) -> None:
        """These are the beams from now on, the best first, with their sums."""
        self.beams = {id(beam): (beam, total) for beam, total in beams}

    def _as_found(self, last: Next[Beam], ids: tuple[int, ...], length: int) -> Found:
        ends = last.token in self._ends
        whole = ids if ends else (*ids, last.token)
        return Found(last.total / length**self._sampling.length_penalty, whole, last.token if ends else None)

    def _keep(self, found: Sequence[Found]) -> None:
        self._found = sorted([*self._found, *found], key=lambda each: -each.score)[: self._sampling.num_beams]

    def _is_over(self, best: float, length: int) -> bool:
        """Whether no beam can do better than the answers that are there, the best sum being `best`."""
        sampling = self._sampling
        if len(self._found) < sampling.num_beams:
            return False
        if sampling.early_stopping == AT_ONCE:
            return True
        longest = sampling.early_stopping == NEVER and sampling.length_penalty > 0
        hypothetical: float = best / (self._most if longest else length) ** sampling.length_penalty
        return hypothetical <= self._found[-1].score
