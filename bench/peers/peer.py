"""What a peer is: a model that is asked how long it takes to decode greedily, and to read a prompt."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """seconds: that were measured. tokens: of the first row, in the order in which they came. vectors: of each text."""

    seconds: float
    tokens: list[int]
    vectors: list[list[float]] = field(default_factory=list)


class Peer(Protocol):
    """A model over a number of rows, each a sequence of its own.

    build: what it was compiled for, or how it runs. token_bytes: of weights that a token alone reads.
    """

    version: str
    build: str
    token_bytes: int

    def decoded(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        """Times num_new steps after prompts of equal length; the prompts and the first tokens are not timed."""
        ...

    def first_token(self, prompt: Sequence[int], threads: int) -> Answer:
        """Times a prompt and the choice of its first token."""
        ...


class Stepping(ABC):
    """A peer that is called step by step."""

    @abstractmethod
    def begin(self, threads: int) -> None:
        """Forgets all sequences; what follows runs on so many threads."""

    @abstractmethod
    def prefill(self, row: int, token_ids: Sequence[int]) -> int:
        """Reads the prompt of a row; gives the likeliest next token."""

    @abstractmethod
    def decode(self, token_ids: Sequence[int], position: int) -> list[int]:
        """Reads a token of each of the first rows, all at this position; gives the likeliest next ones."""

    def decoded(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        self.begin(threads)
        last = [self.prefill(row, ids) for row, ids in enumerate(prompts)]
        tokens, start = [last[0]], len(prompts[0])
        began = time.perf_counter()
        for step in range(num_new):
            last = self.decode(last, start + step)
            tokens.append(last[0])
        return Answer(time.perf_counter() - began, tokens)

    def first_token(self, prompt: Sequence[int], threads: int) -> Answer:
        self.begin(threads)
        began = time.perf_counter()
        token = self.prefill(0, prompt)
        return Answer(time.perf_counter() - began, [token])


class Calling(ABC):
    """A peer whose calls hold a prompt and its steps: steps are what a call for all tokens takes beyond one for the
    first.
    """

    @abstractmethod
    def timed(self, prompts: Prompts, num_new: int, threads: int) -> tuple[list[int], float]:
        """The first row's new tokens, and the seconds of the whole call."""

    def decoded(self, prompts: Prompts, num_new: int, threads: int) -> Answer:
        _, before = self.timed(prompts, 1, threads)
        tokens, seconds = self.timed(prompts, num_new + 1, threads)
        return Answer(seconds - before, tokens)

    def first_token(self, prompt: Sequence[int], threads: int) -> Answer:
        tokens, seconds = self.timed([prompt], 1, threads)
        return Answer(seconds, tokens)
